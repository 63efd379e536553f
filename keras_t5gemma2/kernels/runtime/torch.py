"""Torch's gradients, and the few programs that it compiles."""

import keras
import torch

from keras_t5gemma2.kernels.runtime import platforms
from keras_t5gemma2.kernels.runtime.reference import (  # noqa: F401  chosen from here by `dispatch`
    has_mark,
    map_blocks,
    mark_of,
)
from keras_t5gemma2.kernels.runtime.torch_processes import (  # noqa: F401  chosen from here by `dispatch`
    check_parameters,
    num_replicas,
    prepare_training,
    summed_over_replicas,
    sums_of_metrics,
)


def differentiable(forward, backward):
    """See `runtime.jax.differentiable`."""
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
    """See `runtime.jax.rematerialized`."""
    return keras.remat(function)


def platform_at_hand(tensor=None):
    """See `runtime.reference`; of a tensor, where it is."""
    if (platform := platforms.override()) is not None:
        return platform
    if tensor is not None:
        return tensor.device.type
    return "cuda" if torch.cuda.is_available() else "cpu"


def platform_of(tensors):
    """See `runtime.jax.platform_of`: it is where the first tensor is."""
    return platform_at_hand(tensors[0])


def by_platform(functions, default, *tensors):
    """See `runtime.jax.by_platform`: here it is where the first tensor is."""
    return functions.get(platform_at_hand(tensors[0]), default)(*tensors)


def is_one_cpu(tensor):
    """See `runtime.reference`."""
    return tensor.device.type == "cpu"


def is_traced(_):
    """See `runtime.jax.is_traced`: steps of training run op by op."""
    return False


def compiles(_):
    """See `runtime.jax.compiles`: what `compiled_step` compiles, it reports itself."""
    return False


def compiled(function, _, __=()):
    """See `runtime.jax.compiled`: here nothing is, but no gradient is kept either."""
    return torch.no_grad()(function)


def compiled_step(function, task):
    """See `runtime.torch_step`, which is imported where it is needed: torch's compiler is large."""
    if task.run_eagerly or not task.jit_compile:
        return function
    from keras_t5gemma2.kernels.runtime import torch_step

    return torch_step.compiled_step(function)
