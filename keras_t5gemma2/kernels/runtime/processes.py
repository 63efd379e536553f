"""Several processes that train one model: what each of them has to know of the others."""

import base64
import os

import keras
import numpy as np

_BACKEND = keras.config.backend()


def join():
    """Joins the others that a launcher has started beside this process, if it has.

    On PyTorch that is `torchrun`, whose variables of the environment say how many there are, and
    on JAX whoever sets those of `keras.distribution.initialize`. Each takes the GPU of its number.

    Returns:
        int, how many processes there are.
    """
    if _BACKEND == "jax" and int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1)) > 1:
        keras.distribution.initialize()
    if _BACKEND == "torch" and int(os.environ.get("WORLD_SIZE", 1)) > 1 and not _group():
        import torch

        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if has_gpu else "gloo")
    return count()


def count():
    """How many processes there are: JAX's, or those of torch's process group."""
    if _BACKEND == "jax":
        import jax

        return jax.process_count()
    return _group().get_world_size() if _group() else 1


def index():
    """The number of this process, from 0."""
    if _BACKEND == "jax":
        import jax

        return jax.process_index()
    return _group().get_rank() if _group() else 0


def is_joint():
    """Whether a tensor may lie on the devices of several processes."""
    return _BACKEND == "jax" and count() > 1


def is_whole(tensor):
    """Whether all values of a tensor can be read in this process."""
    if _BACKEND != "jax":
        return True
    return tensor.is_fully_addressable or tensor.is_fully_replicated


def whole(tensor):
    """A numpy array of a tensor that may lie on the devices of several processes.

    All processes must ask for the same tensors, in the same order.
    """
    if is_whole(tensor):
        return keras.ops.convert_to_numpy(tensor)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(tensor, tiled=True))


def wait(name):
    """Returns when all processes have come here.

    Args:
        name: string, of this place in the program.
    """
    if count() == 1:
        return
    if _BACKEND == "jax":
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
    else:
        _group().barrier()


def everywhere(numbers):
    """(processes, numbers) int array of what each process gave."""
    numbers = np.asarray(numbers, "int32")
    if count() == 1:
        return numbers[None]
    if _BACKEND == "jax":
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(numbers)).reshape(count(), -1)
    found = [None] * count()
    _group().all_gather_object(found, numbers)
    return np.stack(found)


def random_states():
    """Plain JSON of what draws random numbers beside the variables, of all processes.

    That is torch's own generator, which dropout without a seed goes by; elsewhere nothing does.
    """
    if _BACKEND != "torch":
        return None
    import torch

    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    mine = [base64.b64encode(bytes(state.tolist())).decode() for state in states]
    found = [mine] * count()
    if _group():
        _group().all_gather_object(found, mine)
    return found


def set_random_states(states):
    """Goes on from what `random_states` gave, in as many processes on the same kind of device."""
    if states is None or _BACKEND != "torch":
        return
    import torch

    mine = states[index() % len(states)]
    setters = [torch.set_rng_state, torch.cuda.set_rng_state]
    for state, set_state in zip(mine, setters, strict=False):
        set_state(torch.tensor(list(base64.b64decode(state)), dtype=torch.uint8))


def _group():
    """`torch.distributed` where a group of processes has been made, or `None`."""
    if _BACKEND != "torch":
        return None
    import torch.distributed as group

    return group if group.is_available() and group.is_initialized() else None
