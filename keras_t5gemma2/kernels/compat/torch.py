"""What torch keeps private."""

import torch
from torch.utils._triton import has_triton as _has_triton


def has_triton():
    """Returns whether torch can compile kernels with Triton here (torch 2.13)."""
    return _has_triton()


def flash_attention():
    """Returns the CPU's flash attention operators, forward and backward (torch 2.13)."""
    return (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )
