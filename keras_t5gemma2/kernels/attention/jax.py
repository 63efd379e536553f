"""Attention on JAX: its kernels for TPUs and GPUs, and who computes what on a mesh of devices."""

import functools

import jax
import keras
from jax.sharding import PartitionSpec

from keras_t5gemma2.kernels.attention import jax_cudnn
from keras_t5gemma2.kernels.attention.reference import weighted_sums  # noqa: F401  chosen from here by `dispatch`
from keras_t5gemma2.kernels.attention.scaled import rounded  # noqa: F401  chosen from here by `dispatch`
from keras_t5gemma2.kernels.attention.slots import write_slots  # noqa: F401  chosen from here by `dispatch`
from keras_t5gemma2.kernels.runtime.jax import spread

_LANES = 128  # of which lengths must be multiples on TPUs
_NARROWEST = 64  # of heads, which are filled up to as many
# JAX asks cuDNN itself when it traces such a call, also for programs that are run elsewhere.
_NO_CUDNN = "cuDNN, which a program that uses it is made with, is not found without a GPU"


def _attend_on_tpu(query, positions, segments, scale, cap=None):
    attend = functools.partial(_splash().attend, cap=cap)
    distribution = keras.distribution.distribution()
    if distribution is None or jax.sharding.get_abstract_mesh().manual_axes:
        return attend(query, positions, segments, scale)
    # No compiler can take such a kernel apart.
    mesh, axis = distribution.device_mesh.backend_mesh, distribution.batch_dim_name
    axis = None if query.shape[0] % mesh.shape[axis] else axis
    return _on_each_device(attend, query, positions, segments, scale, mesh, axis, axis)


def _why_not_on_tpu(query, segments, platform):
    return _only_on("tpu", platform) or _why_not_splash(query, segments)


def _why_not_splash(query, segments):
    """Here, so that the kernel is imported for calls alone that it computes."""
    (keys_values, window), *more = segments
    length, width = query.shape[2:]
    if more or window.right == 0 or keys_values.keys.shape[2] != length:
        return "it is for an encoder, whose queries see one segment on both sides"
    if length % _LANES:
        return f"the length must be a multiple of {_LANES}, and is {length}"
    if width < _NARROWEST:
        return f"the head width must be at least {_NARROWEST}, and is {width}"
    return None


def _splash():
    """Imported where it is used: that takes longer than to import the rest of the package."""
    from keras_t5gemma2.kernels.attention import jax_splash

    return jax_splash


def _why_not_on_gpu(query, segments, platform):
    no_library = None if jax.default_backend() == "gpu" else _NO_CUDNN
    return _only_on("cuda", platform) or jax_cudnn.why_not(query, segments) or no_library


def _only_on(wanted, platform):
    return None if platform == wanted else f"it is for {wanted} only"


# See `attention.torch`.
ATTENTION = {
    "splash": (_attend_on_tpu, _why_not_on_tpu, True),
    "cudnn": (jax_cudnn.attend, _why_not_on_gpu, False),
}
# Whose kernels are others than the portable ones.
PLATFORMS = ("tpu", "cuda")


def attend_on_shards(attend, query, positions, segments, scale, mesh, axis):
    """`attend` on each device of an axis, of its own queries and all keys.

    What compilers make of a loop over blocks of a tensor that is spread over devices is a copy
    of the whole for every block.

    Args:
        attend: function of the next four arguments; see `kernels.attend`.
        query, positions: rows that are each on their own device of the axis.
        segments: a single one, of one row.
        scale: float.
        mesh: `jax.sharding.Mesh`.
        axis: string, the name of its axis.
    """
    return _on_each_device(attend, query, positions, segments, scale, mesh, axis, None)


def whole(keys_values, mesh):
    """`KeyValues` of which every device has all tokens."""
    free = PartitionSpec.UNCONSTRAINED
    axes = (free, free, None, free), (free, free, None, free), (free, None)
    gathered = [
        None if x is None else spread(x, mesh, *of) for x, of in zip(keys_values, axes, strict=True)
    ]
    return type(keys_values)(*gathered)


def _on_each_device(attend, query, positions, segments, scale, mesh, axis, axis_of_keys):
    """`attend` of rows of the query on one axis of the mesh, and of heads on another."""
    ((keys_values, window),) = segments
    heads = _axis_of_heads(mesh, axis, query.shape[1], keys_values.keys.shape[1])
    rows = PartitionSpec(axis, heads)
    of_keys = PartitionSpec(axis_of_keys, heads if keys_values.keys.shape[1] > 1 else None)
    of_positions = PartitionSpec(axis_of_keys)
    specs = (rows, PartitionSpec(axis), type(keys_values)(of_keys, of_keys, of_positions))

    def attend_here(query, positions, keys_values):
        return attend(query, positions, [(keys_values, window)], scale)

    of_each = jax.shard_map(attend_here, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return of_each(query, positions, keys_values)


def _axis_of_heads(mesh, axis, heads, kv_heads):
    """Another axis of the mesh that divides the heads, or `None`."""
    for name, size in mesh.shape.items():
        divides = heads % size == 0 and (kv_heads == 1 or kv_heads % size == 0)
        if name != axis and size > 1 and divides:
            return name
    return None
