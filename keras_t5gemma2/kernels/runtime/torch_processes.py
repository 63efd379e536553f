"""Several processes of torch with a part of each batch each, joined by a process group."""

import weakref
from typing import Any

import torch
import torch.distributed as group

from keras_t5gemma2.compat import keras as compat

# The handles of what `prepare_training` has hooked in, by task.
_handles: weakref.WeakKeyDictionary[Any, list] = weakref.WeakKeyDictionary()
_checked: weakref.WeakSet[Any] = weakref.WeakSet()


def _count():
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def summed_over_replicas(x):
    """See `runtime.jax`, but divided by their number: gradients are averaged over processes."""
    if _count() == 1:
        return x
    x = x.detach().clone()
    group.all_reduce(x)
    return x / _count()


def num_replicas():
    """See `runtime.jax`: every process sees the mean of all gradients."""
    return 1


def sums_of_metrics(sums):
    """See `runtime.jax`: of all processes, whose metrics are then alike."""
    if _count() == 1:
        return sums
    together = torch.stack([x.detach().float() for x in sums])
    group.all_reduce(together)
    return type(sums)(*together)


def prepare_training(task):
    """To be called before `task` is trained, whenever its trainable variables may have changed.

    In a process group it gives all processes the weights of the first one, and averages each
    gradient over them as soon as it is there.

    Raises:
        ValueError: FSDP has taken the parameters over, which Keras then would not train.
    """
    _checked.discard(task)
    check_parameters(task)
    for handle in _handles.pop(task, ()):
        handle.remove()
    if _count() == 1:
        return
    parameters = [variable.value for variable in task.trainable_variables]
    for parameter in parameters:
        group.broadcast(parameter.detach(), 0)
    _handles[task] = [p.register_post_accumulate_grad_hook(_average) for p in parameters]


def _average(parameter):
    group.all_reduce(parameter.grad)
    parameter.grad /= _count()


def check_parameters(task):
    """Raises a `ValueError` where FSDP has taken over the parameters of the task's variables.

    They are looked at once: there are many, and a loop calls this in each step.
    """
    if task in _checked or not group.is_available():
        return
    from torch.distributed.fsdp import FlatParameter, FSDPModule

    layers = compat.all_layers(task)
    found = [type(layer).__name__ for layer in layers if isinstance(layer, FSDPModule)]
    found += [name for name, p in task.named_parameters() if isinstance(p, FlatParameter)]
    if found:
        raise ValueError(
            "FSDP exchanges the parameters of modules, and Keras's variables keep the old ones, "
            f"which no step would train. Received: {found[0]}. Use `DistributedDataParallel`, or "
            "`fit` in a process group; or JAX, where `fit` is spread over devices"
        )
    _checked.add(task)
