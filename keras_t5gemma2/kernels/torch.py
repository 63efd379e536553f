"""What only torch can do: write a cache in place."""

import torch


def write_slots(buffer, values, slot, axis):
    """`buffer` itself, with `values` from index `slot` of `axis` on."""
    slots = torch.arange(values.shape[axis], device=buffer.device) + slot
    # Several beams that start from one row are one piece of memory: they part here.
    return buffer.contiguous().index_copy_(axis, slots, values.to(buffer.dtype))
