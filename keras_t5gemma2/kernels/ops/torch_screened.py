"""`ops.screened` in torch's own operations: rows are found one by one, and nothing is traced."""

import torch

from keras_t5gemma2.kernels.compat.torch import int8_product
from keras_t5gemma2.kernels.ops.screened import (
    HALF,
    LARGE,
    LARGEST_PART,
    TINY,
    Screen,
    Screened,
    with_rounding,
)

_ROWS_AT_A_TIME = 512


def screen_of(table):
    """See `ops.screened`."""
    table = getattr(table, "value", table).detach()
    screen = Screen(torch.empty(table.shape, dtype=torch.int8), *torch.empty(3, len(table)))
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        here = slice(start, start + _ROWS_AT_A_TIME)
        rows = table[here].float()
        largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1, keepdim=True).clamp_(TINY)
        rows, scales = rows * (127 / largest), largest[:, 0] / 127
        codes = torch.round(rows)
        errors, norms = (torch.linalg.vector_norm(x, dim=1) * scales for x in (rows - codes, rows))
        found = codes, scales, *with_rounding(errors, norms, rows.shape[1])
        for whole, part in zip(screen, found, strict=True):
            whole[here] = part
    return screen


def screened_logits(x, table, screen, most, counts, logits):
    """See `ops.screened`. The copy is read in bfloat16, which is far quicker on CPUs."""
    table = getattr(table, "value", table)
    shape, x = x.shape, x.reshape(-1, x.shape[-1]).to(table.dtype)
    lower, upper, is_safe = _bounds(x.float(), screen, is_half=table.dtype != torch.float32)
    least = _kth(lower, min(most, len(table)), counts)
    wanted = (~(upper < least)).any(dim=0).nonzero()[:, 0]
    is_full = not is_safe or len(wanted) > max(1, LARGEST_PART * len(table))
    if is_full:
        found = logits(x, table)
    else:
        found = torch.full((len(x), len(table)), -torch.inf)
        found[:, wanted] = logits(x, table[wanted])
    return Screened(found.reshape(*shape[:-1], -1), torch.tensor(is_full))


def _kth(x, most, counts):
    """(B, 1): the `most`-th largest number of each row (B, V), or that of its own count."""
    if most == 1:
        return x.amax(dim=1, keepdim=True)
    largest = x.topk(most).values
    if counts is None:
        return largest[:, -1:]
    return largest.gather(1, counts.long().clamp(1, most) - 1)


def _bounds(x, screen, is_half):
    """See `screened.bounds`; rounding `x` takes away at most a norm as well."""
    half = x.bfloat16()
    ones = torch.ones(len(screen.codes), dtype=half.dtype)
    logits = int8_product(half, screen.codes, ones).float().mul_(screen.scales)
    # Divided first, no square overflows or underflows.
    largest = x.abs().amax(dim=-1, keepdim=True)
    both = torch.stack([x, x - half.float()]) / largest
    norms = torch.linalg.vector_norm(both, dim=-1, keepdim=True) * largest
    slack = torch.addcmul(norms[0] * screen.errors, norms[1], screen.norms).mul_(1.01).add_(TINY)
    slack = slack.add_(logits.abs(), alpha=(3 if is_half else 1) * HALF)
    is_safe = bool((slack < LARGE).all())  # false of NaN
    return logits - slack, logits + slack, is_safe
