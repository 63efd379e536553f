"""The loss over chunks of tokens on torch, which makes its gradient on the way."""

import torch


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
