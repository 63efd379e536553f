"""JAX's gradients, loops, compiler and devices."""

import functools
import weakref

import jax
import jax.numpy as jnp
import keras
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from keras_t5gemma2.kernels.runtime import platforms, reference
from keras_t5gemma2.kernels.runtime.reference import is_one_cpu  # noqa: F401  for `dispatch`


def differentiable(forward, backward):
    """A function with a gradient of its own.

    Args:
        forward: from `(fixed, *tensors)` to the output and one more tensor for `backward`.
        backward: from `(fixed, tensors, output, extra, upstream)` to a gradient per tensor.

    Returns:
        A function from `(fixed, *tensors)` to the output; `fixed`, integers, has no gradient.
    """

    @jax.custom_vjp
    def function(fixed, *tensors):
        return forward(fixed, *tensors)[0]

    def keep(fixed, *tensors):
        output, extra = forward(fixed, *tensors)
        return output, (fixed, tensors, output, extra)

    function.defvjp(keep, lambda kept, upstream: (None, *backward(*kept, upstream)))
    return function


def map_blocks(function, x, size, axis):
    """See `runtime.reference`. The result takes the memory of `x`, if nothing else needs it."""
    count, shape = x.shape[axis] // size, list(x.shape)
    shape[axis] = size
    _, more = jax.eval_shape(function, jnp.int32(0), jax.ShapeDtypeStruct(shape, x.dtype))
    zero = reference.zero_after(x)
    more = jax.tree.map(lambda x: jnp.full((count, *x.shape), zero, x.dtype), more)

    def body(i, carry):
        x, more = carry
        block = lax.dynamic_slice_in_dim(x, i * size, size, axis)
        block, fresh = function(i, block)
        more = jax.tree.map(lambda all, one: all.at[i].set(one), more, fresh)
        return lax.dynamic_update_slice_in_dim(x, block, i * size, axis), more

    return lax.fori_loop(0, count, body, (x, more))


def rematerialized(function):
    """`function`, of whose intermediate values none is kept for its gradient.

    Args:
        function: from tensors to a tensor, or a tree of them, and a tree of what gets no gradient.
    """

    @jax.custom_vjp
    def again(*tensors):
        return function(*tensors)

    def forward(*tensors):
        return function(*tensors), tensors

    def backward(tensors, upstream):
        def gradients(tensors, upstream):
            return jax.vjp(function, *tensors, has_aux=True)[1](upstream)

        def none(tensors, _):
            return jax.tree.map(jnp.zeros_like, tensors)

        # All that is computed again waits for `upstream`, and is not what was computed before.
        tensors, upstream = lax.optimization_barrier((tensors, upstream[0]))
        first = jax.tree.leaves(upstream)[0]
        if platform_of(first) not in (None, "cpu"):
            return gradients(tensors, upstream)
        # XLA for CPUs drops such barriers, finds that the same is computed twice, and keeps it
        # after all. Wrapped in a data-dependent `cond`, it cannot. Elsewhere that is no `cond`.
        is_true = by_platform({"cpu": _is_number}, _is_true, first)
        return lax.cond(is_true, gradients, none, tensors, upstream)

    again.defvjp(forward, backward)
    return again


def _is_number(x):
    """Always true, also of infinities and NaN, but no compiler knows."""
    return x.ravel()[0] * 0 != 1


def _is_true(_):
    return jnp.bool_(True)


# Platforms --------------------------------------------------------------------------------------


def platform_at_hand(_=None):
    """See `runtime.reference`."""
    if (platform := platforms.override()) is not None:
        return platform
    device = jax.config.jax_default_device or jax.devices()[0]
    name = device if isinstance(device, str) else device.platform
    if name == "gpu":
        is_rocm = "rocm" in getattr(device, "client", jax.devices()[0].client).platform_version
        name = "rocm" if is_rocm else "cuda"
    return name if name in platforms.PLATFORMS else "cpu"


def platform_of(tensors):
    """The platform of what is traced with a tree of tensors; `None` until it is lowered.

    It is known where `platforms.lowered_for` names it, or the mesh of a tensor.
    """
    if (platform := platforms.override()) is not None:
        return platform
    for x in jax.tree.leaves(tensors):
        device = getattr(jax.typeof(x).sharding.mesh, "abstract_device", None)
        if device is not None:
            return platforms.named(device.platform)
    return None


def by_platform(functions, default, *tensors):
    """What the function of a platform gives for the tensors.

    The platform is the one that the program around is lowered for, which may be known no sooner:
    then all functions are traced, and one is lowered.

    Args:
        functions: dict from names of `platforms.PLATFORMS` to functions of `tensors`.
        default: the function of all others.
        *tensors: trees of tensors.
    """
    if (platform := platform_of(tensors)) is not None:
        return functions.get(platform, default)(*tensors)

    def known(platform, function):
        def run(*tensors):
            with platforms.lowered_for(platform):
                return function(*tensors)

        return run

    functions = {name: known(name, function) for name, function in functions.items()}
    return lax.platform_dependent(*tensors, **functions, default=default)


# Training and programs --------------------------------------------------------------------------


def summed_over_replicas(x):
    """A scalar without gradient, added up over the replicas of the model.

    JAX's program is one for all devices, and what it sums is all there is.
    """
    return x


def num_replicas():
    """How many replicas of the model run a step each, that sees its own gradients alone."""
    return 1


def sums_of_metrics(sums):
    """`kernels.TokenSums` as the metrics of each replica take them in."""
    return sums


def prepare_training(_):
    """See `runtime.torch_processes`: there is nothing to prepare."""
    return


def check_parameters(_):
    """See `runtime.torch_processes`: nothing else than Keras holds variables here."""
    return


def compiled_step(function, _):
    """See `runtime.torch_step`: here a step is part of a program that is compiled whole."""
    return function


def is_traced(data):
    """Whether a program is being traced, of which `data`, a tree of tensors, is the input."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in keras.tree.flatten(data))


def compiles(task):
    """Whether `compiled` gives anything else than the function itself."""
    return not task.run_eagerly


def compiled(function, task, changed=()):
    """`function(carried, *others)` compiled, to be called again and again.

    Args:
        function: from trees of tensors to a tree of tensors. It may read the variables of `task`.
        task: what has the variables, `run_eagerly` and `jit_compile`.
        changed: sequence of other variables, which it may read and change: those of a sampler.

    Returns:
        A function with the same arguments. The memory of `carried` is used again: it is gone.
    """
    if task.run_eagerly:
        return function
    # Found once: to look for them takes longer than some programs.
    read = [*task.trainable_variables, *task.non_trainable_variables]

    @functools.partial(jax.jit, donate_argnums=0)
    def program(carried, others, values, states):
        mapping = zip([*read, *changed], [*values, *states], strict=True)
        # It is run here: nothing has to be traced for other platforms.
        here = platforms.lowered_for(platform_at_hand())
        with here, keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = function(carried, *others)
        # A variable that was not assigned has no value of the scope's own.
        after = zip(states, map(scope.get_current_value, changed), strict=True)
        return outputs, [old if new is None else new for old, new in after]

    def call(carried, *others):
        values, states = ([variable.value for variable in of] for of in (read, changed))
        outputs, states = program(carried, others, values, states)
        for variable, value in zip(changed, states, strict=True):
            variable.assign(value)
        return outputs

    return call


@jax.custom_vjp
def _widened(matrix, is_other):
    if matrix.dtype == "bfloat16":
        bits = lax.bitcast_convert_type(matrix, "uint16") ^ is_other.astype("uint16")
        return lax.bitcast_convert_type(bits, "bfloat16").astype("float32")
    return (matrix ^ is_other.astype("int8")).astype("float32")


def _widened_forward(matrix, is_other):
    return _widened(matrix, is_other), jnp.zeros((), matrix.dtype)


def _widened_backward(like, upstream):
    is_float = jnp.issubdtype(like.dtype, jnp.floating)
    return upstream.astype(like.dtype) if is_float else None, None


_widened.defvjp(_widened_forward, _widened_backward)


def widened(matrix, x):
    """Numbers of int8 or bfloat16 as float32, which no compiler makes in front of a loop.

    There it would keep all of them, and each step would read these: up to four times the bytes. So
    they are made to depend on `x`.
    """
    return _widened(matrix, x.ravel()[0] > jnp.inf)  # always False, but no compiler knows


@jax.custom_vjp
def take_rows(table, ids):
    """Rows of a table of bfloat16. XLA for CPUs would make float32 of all of them first."""
    rows = jnp.take(lax.bitcast_convert_type(table, "uint16"), ids, axis=0)
    return lax.bitcast_convert_type(rows, "bfloat16")


def _take_rows_forward(table, ids):
    return take_rows(table, ids), (ids, table.shape)


def _take_rows_backward(kept, upstream):
    ids, shape = kept
    return jnp.zeros(shape, upstream.dtype).at[ids].add(upstream), None


take_rows.defvjp(_take_rows_forward, _take_rows_backward)


def mark_of(tensor):
    """See `runtime.reference`. Arrays of JAX do not change: another value is another array."""
    return weakref.ref(tensor)


def has_mark(tensor, mark):
    """See `runtime.reference`."""
    return mark() is tensor


def spread(x, mesh, *axes):
    """`x` with its first axes on these of the mesh."""
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))
