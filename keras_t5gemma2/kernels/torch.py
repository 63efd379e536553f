"""What only torch can do: write a cache in place, and a loss that makes its gradient on the way."""

import keras
import torch
from torch.nn import functional

from keras_t5gemma2.kernels import reference, torch_flash
from keras_t5gemma2.kernels.reference import map_blocks  # noqa: F401  what `blocked` takes from here
from keras_t5gemma2.kernels.scaled import Scaled, apart
from keras_t5gemma2.kernels.torch_processes import (  # noqa: F401  what `kernels` takes from here
    check_parameters,
    prepare_training,
    summed_over_replicas,
    sums_of_metrics,
)

_FEW_ROWS = 32  # of a product, such as those of a step of decoding


def write_slots(buffer, values, slots):
    """`buffer` itself, with `values` (B, K, T, H) in its slots, a scalar or (T,)."""
    # Several beams that start from one row may be one piece of memory: they part here.
    where = slots.reshape(-1).long()
    return buffer.contiguous().index_copy_(2, where, values.to(buffer.dtype))


def rounded(x):
    """See `kernels.reference`."""
    x = x.float()
    scales = x.abs().amax(dim=-1, keepdim=True) / 127.0
    return Scaled((x / scales.clamp(min=1e-30)).round_().to(torch.int8), scales)


def rms_norm(x, scale, epsilon, dtype):
    """See `kernels.reference.rms_norm`."""
    scale = scale.value.float()
    normed = functional.rms_norm(x.float(), scale.shape, eps=epsilon)
    return torch.addcmul(normed, normed, scale).to(_dtype(dtype))


def _dtype(dtype):
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def product(x, kernel):
    """See `kernels.reference`; as the others here, without what Keras does around each call."""
    kernel = kernel.value
    return x @ kernel if kernel.is_contiguous() else _times(x, kernel.t()).contiguous()


def logits(x, table):
    """See `kernels.reference`."""
    table = getattr(table, "value", table)
    return _times(x.to(table.dtype), table).float()


def _times(x, rows):
    """`x` (..., in) times `rows` (out, in) transposed.

    A few rows of `x` have less to be rearranged for a product than the matrix has: they go to
    the right of it, and what comes out is no longer one row after the other.
    """
    count = x.shape[:-1].numel()
    fewest = 4 if x.dtype == torch.float32 else 2
    if count == 1:
        return torch.mv(rows, x.reshape(-1)).view(*x.shape[:-1], -1)
    if x.device.type != "cpu" or not fewest <= count <= _FEW_ROWS:
        return x @ rows.t()
    return (rows @ x.reshape(count, -1).t()).t().unflatten(0, x.shape[:-1])


def lay_out(variable, for_steps):
    """Has a matrix (in, out) in memory as (out, in), as products with few rows are quickest.

    Or as it was made, as the arrays of an optimizer are. The first makes a difference on CPUs.
    """
    value = variable.value
    if not for_steps:
        value.data = value.data.contiguous()
    elif value.device.type == "cpu" and not value.t().is_contiguous():
        value.data = value.data.t().contiguous().t()


def argmax(x):
    """See `kernels.reference`."""
    return x.max(dim=-1).indices


def split_heads(x, width):
    """See `kernels.reference`."""
    return x.reshape(x.shape[0], x.shape[1], -1, width).transpose(1, 2)


def merge_heads(x):
    """See `kernels.reference`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def rotate(x, cos, sin):
    """See `kernels.reference`."""
    x32 = x.float()
    return (x32 * cos).addcmul_(x32.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def gelu(x):
    """See `kernels.reference`."""
    return functional.gelu(x.float(), approximate="tanh").to(x.dtype)


def gated(gate, up):
    """See `kernels.reference`."""
    if gate.dtype != torch.float16:
        return gelu(gate) * up, ()
    mixed = functional.gelu(gate.float(), approximate="tanh") * up
    size = mixed.detach().abs().amax(dim=-1, keepdim=True).clamp_(min=1.0)
    return (mixed / size).half(), (size,)


def by_pieces(function, x, size):
    """See `kernels.reference`."""
    if x.shape[1] <= size:
        return function(x)
    y = None
    for start in range(0, x.shape[1], size):
        piece = function(x[:, start : start + size])
        y = torch.empty_like(x, dtype=piece.dtype) if y is None else y
        y[:, start : start + size] = piece
    return y


def weighted_sums(queries, positions, parts, scale):
    """See `kernels.reference`."""
    scores = [
        _scores(query.float() * scale, positions, *part)
        for query, part in zip(queries, parts, strict=True)
    ]
    top = torch.stack([part.amax(dim=-1, keepdim=True) for part in scores]).amax(dim=0)
    top = top.clamp(min=reference.LOWEST)
    weights = [(part - top).exp_() for part in scores]
    total = sum(part.sum(dim=-1, keepdim=True) for part in weights).clamp_(min=1e-30)
    return [_sum(part, kv.values) / total for part, (kv, _) in zip(weights, parts, strict=True)]


def attend_scores(query, positions, parts, scale, _):
    """See `kernels.attend`: for few queries, whose scores are small beside the keys."""
    sums = weighted_sums([query] * len(parts), positions, parts, scale)
    return sum(sums).to(query.dtype)


def _scores(query, positions, keys_values, window):
    numbers, scales = apart(keys_values.keys)
    scores = _per_head(query, numbers.transpose(2, 3))
    if scales is not None:
        scores = scores * _for_each_query(scales, query)
    if keys_values.positions is None:
        return scores
    key = reference.for_each_row(keys_values.positions, query)[:, None]
    is_seen = key >= 0
    if window.left is not None:
        is_seen = is_seen & (positions[:, :, None] - key <= window.left)
    if window.right is not None:
        is_seen = is_seen & (key - positions[:, :, None] <= window.right)
    return torch.where(is_seen[:, None], scores, reference.UNSEEN)


def _sum(weights, values):
    numbers, scales = apart(values)
    if scales is not None:
        weights = weights * _for_each_query(scales, weights)
    return _per_head(weights, numbers)


def _for_each_query(scales, query):
    """Scales (B, K, S, 1) as (B, N, 1, S)."""
    scales = reference.for_each_row(scales, query)
    return scales.repeat_interleave(query.shape[1] // scales.shape[1], dim=1).transpose(2, 3)


def _per_head(rows, matrices):
    """(B, N, T, X) times (B / R, K, X, Y), float32: see the reference."""
    batch, num_heads, length, width = rows.shape
    shared, num_kv_heads = matrices.shape[:2]
    times, groups = batch // shared, num_heads // num_kv_heads
    rows = rows.reshape(shared, times, num_kv_heads, groups * length, width)
    rows = rows.transpose(1, 2).reshape(shared, num_kv_heads, -1, width)
    product = (rows @ matrices.float()).view(shared, num_kv_heads, times, groups * length, -1)
    return product.transpose(1, 2).reshape(batch, num_heads, length, -1)


def differentiable(forward, backward):
    """See `kernels.jax.differentiable`."""
    return lambda fixed, *tensors: _Differentiable.apply(forward, backward, fixed, *tensors)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, forward, backward, fixed, *tensors):
        output, extra = forward(fixed, *tensors)
        ctx.fixed, ctx.backward_of = fixed, backward
        ctx.save_for_backward(*tensors, output, extra)
        return output

    @staticmethod
    def backward(ctx, upstream):
        *tensors, output, extra = ctx.saved_tensors
        return None, None, None, *ctx.backward_of(ctx.fixed, tensors, output, extra, upstream)


def rematerialized(function):
    """See `kernels.jax.rematerialized`."""
    return keras.remat(function)


def is_traced(_):
    """See `kernels.jax.is_traced`: steps of training run op by op."""
    return False


def compiles(_):
    """See `kernels.jax.compiles`: what `compiled_step` compiles, it reports itself."""
    return False


def compiled(function, _, __=()):
    """See `kernels.jax.compiled`: here nothing is, but no gradient is kept either."""
    return torch.no_grad()(function)


def compiled_step(function, task):
    """See `kernels.torch_step`, which is imported where it is needed: torch's compiler is large."""
    if task.run_eagerly or not task.jit_compile:
        return function
    from keras_t5gemma2.kernels import torch_step

    return torch_step.compiled_step(function)


def sums_over_chunks(hidden, table, labels, weights, targets, soft_cap, size, _):
    """See `kernels.linear_cross_entropy`: the loss and the correct tokens, summed.

    Args:
        hidden: (N, D) tensor.
        table: (V, D) tensor.
        labels, weights: (N,) tensors.
        targets: `kernels.SoftTargets` of (N, few) tensors, or nothing.
        soft_cap: float or `None`.
        size: int. Tokens whose logits are formed at once.
        _: torch knows itself which gradients are wanted.
    """
    is_recording = torch.is_grad_enabled()
    ids, shares = targets or (None, None)
    ids = None if ids is None else ids.long()
    labels = labels.long()
    return _Sums.apply(hidden, table, labels, weights, ids, shares, soft_cap, size, is_recording)


class _Sums(torch.autograd.Function):
    """The gradients of what is differentiated, and of nothing else: a frozen table costs none."""

    @staticmethod
    def forward(ctx, hidden, table, labels, weights, ids, shares, soft_cap, size, is_recording):
        wanted = [is_recording and needed for needed in ctx.needs_input_grad[:2]]
        ctx.dtypes = hidden.dtype, table.dtype
        cast = table.to(hidden.dtype)
        loss, correct = weights.new_zeros(()), weights.new_zeros(())
        of_hidden = hidden.new_empty(hidden.shape, dtype=torch.float32) if wanted[0] else None
        of_table = table.new_zeros(table.shape, dtype=torch.float32) if wanted[1] else None

        for start in range(0, hidden.shape[0], size):
            chunk = slice(start, start + size)
            targets = () if ids is None else (ids[chunk], shares[chunk])
            rows = hidden[chunk], labels[chunk], weights[chunk], targets
            fresh, slopes = _chunk(*rows, cast, soft_cap)
            loss, correct = loss + fresh[0], correct + fresh[1]
            by_token = weights[chunk, None]
            if wanted[0]:
                of_hidden[chunk] = _times_table(slopes, cast) * by_token
            if wanted[1]:
                of_table.addmm_(slopes.T, hidden[chunk].float() * by_token)
        ctx.save_for_backward(of_hidden, of_table)
        return loss, correct

    @staticmethod
    def backward(ctx, upstream, _):
        of_hidden, of_table = ctx.saved_tensors
        if of_hidden is not None:
            of_hidden = (of_hidden * upstream).to(ctx.dtypes[0])
        if of_table is not None:
            # In place: it is as large as the table.
            of_table = of_table.mul_(upstream).to(ctx.dtypes[1])
        return of_hidden, of_table, *([None] * 7)


def _chunk(hidden, labels, weights, targets, table, soft_cap):
    """The two sums of one chunk, and the slopes (size, V) of its unweighted losses."""
    logits = (hidden @ table.T).float()
    if soft_cap is not None:
        bent = (logits / soft_cap).tanh_()
        torch.mul(bent, soft_cap, out=logits)
    ids, shares = targets or (labels[:, None], weights.new_ones(len(labels), 1))
    of_targets = (shares * logits.gather(1, ids)).sum(dim=1)
    top, highest = logits.max(dim=1, keepdim=True)

    # From here on in place: this is the one array of its size.
    exponentials = logits.sub_(top).exp_()
    total = exponentials.sum(dim=1, keepdim=True)
    losses = (total.log() + top)[:, 0] - of_targets
    is_correct = (highest[:, 0] == labels).float()
    slopes = exponentials.div_(total)
    slopes.scatter_add_(1, ids, -shares)
    if soft_cap is not None:
        slopes.mul_(bent.square_().neg_().add_(1.0))
    return ((weights * losses).sum(), (weights * is_correct).sum()), slopes


def _times_table(slopes, table):
    """(size, D) float32: `slopes` (size, V) times the table."""
    # What keeps the slopes of a large vocabulary in the range of float16.
    scale = 256.0 if table.dtype == torch.float16 else 1.0
    if scale != 1.0:
        slopes = slopes * scale
    return (slopes.to(table.dtype) @ table).float() / scale


def _attend_flex(*args):
    return _flex().attend(*args)


def _suits_gpu(query, parts):
    return query.device.type == "cuda" and _flex().suits(query, parts)


def _flex():
    """Imported where it is used: it brings torch's compiler along."""
    from keras_t5gemma2.kernels import torch_flex

    return torch_flex


# Kernels of attention by name, the better ones first: see `kernels.attention`.
ATTENTION = {
    "few": (torch_flash.attend_few, torch_flash.suits_few),
    "scores": (attend_scores, lambda query, _: query.shape[2] <= reference.FEW_QUERIES),
    "flash": (torch_flash.attend, torch_flash.suits),
    "flex": (_attend_flex, _suits_gpu),
}
