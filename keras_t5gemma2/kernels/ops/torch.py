"""The same as the reference in torch's own operations, without what Keras does around each call."""

import torch
from torch.nn import functional

from keras_t5gemma2.kernels.compat.torch import (
    int4_product,
    int8_product,
    packed_int4,
    version_of,
)
from keras_t5gemma2.kernels.ops import torch_screened
from keras_t5gemma2.kernels.ops.reference import take_rows  # noqa: F401  for `dispatch`
from keras_t5gemma2.kernels.ops.torch_screened import screen_of  # noqa: F401  for `dispatch`

_FEW_ROWS = 32  # of a product, such as those of a step of decoding
# What CPUs multiply in float32 far faster: torch 2.13 has a quick product of bfloat16 for those
# with AVX-512 only, and else takes 35 times as long for (512, 640) by (640, 2048) as in float32.
_HAS_BFLOAT16 = not torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "DEFAULT"))
_SLOW = (torch.float16,) if _HAS_BFLOAT16 else (torch.float16, torch.bfloat16)
_FEWEST_ROWS = 3  # up to which torch's product of int8 and bfloat16 is the quickest
_ROWS_AT_A_TIME = 256  # of codes, which as floats stay in the cache of the core that made them


def rms_norm(x, scale, epsilon, dtype):
    """See `ops.reference`."""
    scale = scale.value.float()
    normed = functional.rms_norm(x.float(), scale.shape, eps=epsilon)
    return torch.addcmul(normed, normed, scale).to(_dtype(dtype))


def _dtype(dtype):
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def product(x, kernel):
    """See `ops.reference`; as the others here, without what Keras does around each call."""
    kernel = getattr(kernel, "value", kernel)  # a variable, or what it is rounded to
    if x.device.type == "cpu" and x.dtype in _SLOW and x.shape[:-1].numel() > _FEW_ROWS:
        return _InFloat32.apply(x, kernel)
    return x @ kernel if kernel.is_contiguous() else _times(x, kernel.t()).contiguous()


class _InFloat32(torch.autograd.Function):
    """A product of half precision in float32, of which nothing is kept for its gradient."""

    @staticmethod
    def forward(ctx, x, kernel):
        ctx.save_for_backward(x, kernel)
        return (x.float() @ kernel.float()).to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):
        x, kernel = ctx.saved_tensors
        upstream, of_x, of_kernel = upstream.float(), None, None
        if ctx.needs_input_grad[0]:
            of_x = (upstream @ kernel.float().t()).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_kernel = (x.flatten(0, -2).float().t() @ upstream.flatten(0, -2)).to(kernel.dtype)
        return of_x, of_kernel


def logits(x, table):
    """See `ops.reference`."""
    table = getattr(table, "value", table)
    return _times(x.to(table.dtype), table).float()


def product_of_codes(x, codes):
    """See `ops.reference`."""
    return times_codes(x, codes.t())


def reads_codes(x):
    """See `ops.reference`; trained inputs do not."""
    is_plain = not (torch.is_grad_enabled() and x.requires_grad)
    return is_plain and x.device.type == "cpu" and x.shape[:-1].numel() <= _FEW_ROWS


def times_codes(x, codes):
    """See `ops.reference`."""
    rows = x.reshape(-1, x.shape[-1])
    is_quick = x.dtype == torch.bfloat16 and len(rows) <= _FEWEST_ROWS
    if is_quick or torch.compiler.is_compiling():
        ones = torch.ones(len(codes), dtype=x.dtype)
        return int8_product(rows, codes.contiguous(), ones).unflatten(0, x.shape[:-1])
    dtype = torch.float32 if x.dtype in _SLOW else x.dtype
    rows, sums = rows.to(dtype), torch.empty((len(codes), len(rows)), dtype=dtype)
    floats = torch.empty((min(len(codes), _ROWS_AT_A_TIME), codes.shape[1]), dtype=dtype)
    for piece, of_piece in zip(
        codes.split(_ROWS_AT_A_TIME), sums.split(_ROWS_AT_A_TIME), strict=True
    ):
        torch.mm(floats[: len(piece)].copy_(piece), rows.t(), out=of_piece)
    return sums.t().to(x.dtype).unflatten(0, x.shape[:-1])


def packs_blocks(x):
    """See `ops.reference`."""
    return x.dtype == torch.bfloat16 and reads_codes(x) and not torch.compiler.is_compiling()


def state_of(tensors):
    """See `ops.reference`; tensors of `torch.inference_mode` do not count their changes."""
    if any(x.is_inference() for x in tensors):
        return None
    return tuple((x.data_ptr(), version_of(x)) for x in tensors)


def packed_blocks(pieces, scale, zero, block):
    """See `ops.reference`."""
    codes = torch.cat([packed_int4(piece.int() + 8, block, None)[0] for piece in pieces])
    return codes, block, torch.stack([scale, -zero * scale], dim=-1).bfloat16().contiguous()


def times_blocks(x, packed):
    """See `ops.reference`."""
    return int4_product(x.reshape(-1, x.shape[-1]), packed).unflatten(0, x.shape[:-1])


def screened_logits(x, table, screen, most=1, counts=None):
    """See `ops.screened`."""
    return torch_screened.screened_logits(x, table, screen, most, counts, logits)


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
    """Sets the memory order of a matrix (in, out).

    For decoding steps it is column by column, in which products with few rows are quickest on
    CPUs; otherwise row by row, as the optimizer has its arrays.
    """
    value = variable.value
    # Without its gradient: an operation on a parameter that is trained holds torch's lock of it and
    # waits for Python's, which a thread that sets its data holds while it waits for torch's.
    data = value.data
    if not for_steps:
        value.data = data.contiguous()
    elif data.device.type == "cpu" and not data.t().is_contiguous():
        value.data = data.t().contiguous().t()


def argmax(x):
    """See `ops.reference`."""
    return x.max(dim=-1).indices


def split_heads(x, width):
    """See `ops.reference`."""
    return x.reshape(x.shape[0], x.shape[1], -1, width).transpose(1, 2)


def merge_heads(x):
    """See `ops.reference`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def rotate(x, cos, sin):
    """See `ops.reference`."""
    x32 = x.float()
    return (x32 * cos).addcmul_(x32.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def gelu(x):
    """See `ops.reference`."""
    return functional.gelu(x.float(), approximate="tanh").to(x.dtype)


def gated(gate, up):
    """See `ops.reference`."""
    if gate.dtype != torch.float16:
        return gelu(gate) * up, ()
    mixed = functional.gelu(gate.float(), approximate="tanh") * up
    size = mixed.detach().abs().amax(dim=-1, keepdim=True).clamp_(min=1.0)
    return (mixed / size).half(), (size,)


def by_pieces(function, x, size):
    """See `ops.reference`."""
    if x.shape[1] <= size:
        return function(x)
    y = None
    for start in range(0, x.shape[1], size):
        piece = function(x[:, start : start + size])
        y = torch.empty_like(x, dtype=piece.dtype) if y is None else y
        y[:, start : start + size] = piece
    return y


def mixture(x, shares, functions, training):
    """See `ops.reference`; here each function runs for the tokens that have a share of it."""
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return sum(shares[..., i : i + 1] * f(x).float() for i, f in enumerate(functions))
    rows, shares = x.flatten(0, -2), shares.flatten(0, -2)
    y = torch.zeros(rows.shape, dtype=torch.float32, device=x.device)
    for i, function in enumerate(functions):
        (taken,) = shares[:, i].nonzero(as_tuple=True)
        if len(taken):
            part = function(rows[taken][None])[0].float()
            y = y.index_add(0, taken, part * shares[taken, i, None])
    return y.view(x.shape)
