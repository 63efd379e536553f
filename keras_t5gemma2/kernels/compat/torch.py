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


def packed_int4(codes, block, scales):
    """Codes (out, in) and scales (in / block, out, 2) as `int4_product` has them (torch 2.13).

    A number is (code - 8), of codes from 0 to 15, times the first scale, plus the second.
    """
    return torch._convert_weight_to_int4pack_for_cpu(codes, 1), block, scales


def int4_product(x, packed):
    """Rows (M, in) times what `packed_int4` gave, transposed, both of bfloat16 (torch 2.13)."""
    return torch._weight_int4pack_mm_for_cpu(x, *packed)


def version_of(tensor):
    """A number that grows with each change of a tensor in place (torch 2.13)."""
    return tensor._version
