"""What torch keeps private."""

import torch
from torch.utils._triton import has_triton as _has_triton

_NUMBERS_OF_A_VECTOR = 16


def has_triton():
    """Returns whether torch can compile kernels with Triton here (torch 2.13)."""
    return _has_triton()


def flash_attention():
    """Returns the CPU's flash attention operators, forward and backward (torch 2.13)."""
    return (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )


def int8_product(x, codes, scales):
    """Rows (M, in) times int8 (out, in) transposed, times a scale for each column (torch 2.13).

    It is for CPUs, has no gradient, and takes float32 and bfloat16, of which `scales` are too.
    Torch's own reads vectors of 16 numbers, and past the end of rows that are no multiple of it.
    """
    if codes.shape[1] % _NUMBERS_OF_A_VECTOR:
        return ((x.float() @ codes.float().t()) * scales.float()).to(x.dtype)
    return torch._weight_int8pack_mm(x, codes, scales)
