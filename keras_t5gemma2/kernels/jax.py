"""What only JAX can do: gradients of our own, and a loss that makes its gradient on the way."""

import functools

import jax
import jax.numpy as jnp
import keras
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from keras import ops

from keras_t5gemma2.kernels import jax_cudnn, reference
from keras_t5gemma2.sharding.batch import data_axis


def _attend_on_tpu(query, positions, parts, scale, _):
    attend = functools.partial(_splash().attend, _=None)
    distribution = keras.distribution.distribution()
    if distribution is None or jax.sharding.get_abstract_mesh().manual_axes:
        return attend(query, positions, parts, scale)
    # No compiler can take such a kernel apart.
    mesh, axis = distribution.device_mesh.backend_mesh, distribution.batch_dim_name
    axis = None if query.shape[0] % mesh.shape[axis] else axis
    return _on_each_device(attend, query, positions, parts, scale, mesh, axis, axis)


def _suits_tpu(query, parts):
    return jax.default_backend() == "tpu" and _splash().can(query, parts)


def _splash():
    """Imported where it is used: that takes longer than to import the rest of the package."""
    from keras_t5gemma2.kernels import jax_splash

    return jax_splash


def _suits_gpu(query, parts):
    return jax.default_backend() == "gpu" and jax_cudnn.can(query, parts)


# See `kernels.torch`.
ATTENTION = {
    "splash": (_attend_on_tpu, _suits_tpu),
    "cudnn": (jax_cudnn.attend, _suits_gpu),
}


def attend_in_parts(attend, query, positions, parts, scale, mesh, axis):
    """`attend` on each device of an axis, of its own queries and all keys.

    What compilers make of a loop over blocks of a tensor that is spread over devices is a copy
    of the whole for every block.

    Args:
        attend: function of the next four arguments; see `kernels.attend`.
        query, positions: rows that are each on their own device of the axis.
        parts: a single one, of one row.
        scale: float.
        mesh: `jax.sharding.Mesh`.
        axis: string, the name of its axis.
    """
    return _on_each_device(attend, query, positions, parts, scale, mesh, axis, None)


def whole(keys_values, mesh):
    """`KeyValues` of which every device has all tokens."""
    free = PartitionSpec.UNCONSTRAINED
    axes = (free, free, None, free), (free, free, None, free), (free, None)
    spread = [
        None if x is None else _spread(x, mesh, *of)
        for x, of in zip(keys_values, axes, strict=True)
    ]
    return type(keys_values)(*spread)


def _on_each_device(attend, query, positions, parts, scale, mesh, axis, axis_of_keys):
    """`attend` of rows of the query on one axis of the mesh, and of heads on another."""
    ((keys_values, window),) = parts
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


def differentiable(forward, backward):
    """A function whose gradient is the one said.

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
    """See `kernels.reference`. The result takes the memory of `x`, if nothing else needs it."""
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


def by_pieces(function, x, size):
    """See `kernels.reference`."""
    length = x.shape[1]
    if length is None or length <= size or length % size:
        return function(x)
    dtype = x.dtype  # the output may have another
    output = jax.eval_shape(function, jax.ShapeDtypeStruct((x.shape[0], size, x.shape[2]), dtype))
    x = x.astype(output.dtype)
    return map_blocks(lambda _, piece: (function(piece.astype(dtype)), ()), x, size, axis=1)[0]


def rematerialized(function):
    """`function`, of whose intermediate values none is kept for its gradient.

    Args:
        function: from tensors to a tensor and a tree of what gets no gradient.
    """
    if jax.default_backend() != "cpu":
        return jax.checkpoint(function)
    # XLA for CPUs drops the barriers of `jax.checkpoint`, finds that the same is computed twice,
    # and keeps it after all. Into a condition that it cannot decide it does not look.

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

        upstream, _ = upstream
        is_true = upstream.ravel()[0] * 0 != 1  # of infinities and NaN too
        return lax.cond(is_true, gradients, none, tensors, upstream)

    again.defvjp(forward, backward)
    return again


def logits(x, table):
    """See `kernels.reference`; half precision is summed in float32 and not rounded."""
    table = ops.convert_to_tensor(table)
    if table.dtype == "float32":
        return reference.logits(x, table)
    x = x.astype(table.dtype)
    return jnp.matmul(x, table.T, preferred_element_type="float32")


def rms_norm(x, scale, epsilon, dtype):
    """See `kernels.reference`; for its gradient nothing is kept but `x`."""

    def norm(x, scale):
        return reference.rms_norm(x, scale, epsilon, dtype), ()

    return rematerialized(norm)(x, ops.convert_to_tensor(scale))[0]


def summed_over_replicas(x):
    """A scalar without gradient, added up over the replicas of the model.

    JAX's program is one for all devices, and what it sums is all there is.
    """
    return x


def sums_of_metrics(sums):
    """`kernels.TokenSums` as the metrics of each replica take them in."""
    return sums


def prepare_training(_):
    """See `kernels.torch_processes`: there is nothing to prepare."""
    return


def check_parameters(_):
    """See `kernels.torch_processes`: nothing else than Keras holds variables here."""
    return


def compiled_step(function, _):
    """See `kernels.torch_step`: here a step is part of a program that is compiled whole."""
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
        with keras.StatelessScope(state_mapping=mapping) as scope:
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


def sums_over_chunks(hidden, table, labels, weights, targets, soft_cap, size, _):
    """See `kernels.linear_cross_entropy`: the loss and the correct tokens, summed.

    Args:
        hidden: (chunks * size, D) array.
        table: (V, D) array.
        labels, weights: (chunks * size,) arrays.
        targets: `kernels.SoftTargets` of (chunks * size, few) arrays, or nothing.
        soft_cap: float or `None`.
        size: int. Tokens whose logits are formed at once.
        _: JAX knows itself which gradients are wanted.
    """
    axis = data_axis()
    if axis is not None:
        hidden, labels, weights, *targets = (
            _dealt(x, size, axis[2]) for x in (hidden, labels, weights, *targets)
        )
    return _sums(hidden, table, labels, weights, tuple(targets), soft_cap, size, axis)


def _dealt(x, size, parts):
    """Tokens in another order: of each chunk of `size`, every device has as many."""
    x = x.reshape(parts, -1, size // parts, *x.shape[1:])
    return x.swapaxes(0, 1).reshape(-1, *x.shape[3:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _sums(hidden, table, labels, weights, targets, soft_cap, size, axis):
    sums, _, _ = _scan(hidden, table, labels, weights, targets, soft_cap, size, axis)
    return sums


def _forward(hidden, table, labels, weights, targets, soft_cap, size, axis):
    """The gradients of what is differentiated, and of nothing else: a frozen table costs none."""
    wanted = (hidden.perturbed, table.perturbed)
    values = [argument.value for argument in (hidden, table, labels, weights)]
    targets = tuple(argument.value for argument in targets)
    sums, of_hidden, of_table = _scan(*values, targets, soft_cap, size, axis, wanted)
    # Arrays of no size, which carry the dtypes of the arguments.
    dtypes = [jnp.zeros((0,), value.dtype) for value in values[:2]]
    return sums, (of_hidden, of_table, dtypes)


def _backward(soft_cap, size, axis, kept, upstream):
    *gradients, dtypes = kept
    scaled = [
        None if gradient is None else (gradient * upstream[0]).astype(like.dtype)
        for gradient, like in zip(gradients, dtypes, strict=True)
    ]
    return (*scaled, None, None, None)


_sums.defvjp(_forward, _backward, symbolic_zeros=True)


def _scan(hidden, table, labels, weights, targets, soft_cap, size, axis, wanted=(False, False)):
    """Loss and correct tokens summed, and the float32 gradients of the loss that are wanted."""
    chunks = [x.reshape(-1, size, *x.shape[1:]) for x in (hidden, labels, weights, *targets)]
    cast, parts = table.astype(hidden.dtype), 1
    if axis is not None:
        # A device has its tokens of each chunk and, of its rows of the table, all columns. What
        # its tokens give to the gradient of the table is added up once, after the last chunk.
        mesh, name, parts = axis[0].backend_mesh, *axis[1:]
        chunks = [_spread(x, mesh, None, name) for x in chunks]
        cast = _spread(cast, mesh, PartitionSpec.UNCONSTRAINED, None)

    def body(carry, chunk):
        sums, of_table = carry
        fresh, slopes = _chunk(*chunk[:3], chunk[3:], cast, soft_cap)
        of_hidden = _times_table(slopes, cast) * chunk[2][:, None] if wanted[0] else None
        if wanted[1]:
            weighted = chunk[0].astype("float32") * chunk[2][:, None]
            of_table += _of_parts(slopes, weighted, parts)
            if axis is not None:
                of_table = _spread(of_table, mesh, name, PartitionSpec.UNCONSTRAINED)
        return ((sums[0] + fresh[0], sums[1] + fresh[1]), of_table), of_hidden

    of_table = jnp.zeros((parts, *table.shape), "float32") if wanted[1] else None
    zero = jnp.zeros((), "float32")
    (sums, of_table), of_hidden = lax.scan(body, ((zero, zero), of_table), tuple(chunks))
    of_table = of_table.sum(axis=0) if wanted[1] else None
    return sums, of_hidden.reshape(hidden.shape) if wanted[0] else None, of_table


def _spread(x, mesh, *axes):
    """`x` with its first axes on these of the mesh."""
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))


def _of_parts(slopes, hidden, parts):
    """Float32 (parts, V, D): for each part of the tokens, `slopes` (., V) times `hidden` (., D)."""
    slopes, hidden = (x.reshape(parts, -1, x.shape[-1]) for x in (slopes, hidden))
    return jnp.matmul(slopes.swapaxes(1, 2), hidden, preferred_element_type="float32")


def _chunk(hidden, labels, weights, targets, table, soft_cap):
    """The two sums of one chunk, and the slopes (size, V) of its unweighted losses."""
    logits = jnp.matmul(hidden, table.T, preferred_element_type="float32")
    if soft_cap is not None:
        bent = jnp.tanh(logits / soft_cap)
        logits = soft_cap * bent
    top = logits.max(axis=-1, keepdims=True)
    exponentials = jnp.exp(logits - top)
    total = exponentials.sum(axis=-1, keepdims=True)
    ids, shares = targets or (labels[:, None], 1.0)
    of_targets = (shares * jnp.take_along_axis(logits, ids, axis=-1)).sum(axis=-1)
    losses = (jnp.log(total) + top)[:, 0] - of_targets
    is_correct = jnp.argmax(logits, axis=-1) == labels

    if targets:
        each = jnp.arange(len(ids))[:, None]
        slopes = (exponentials / total).at[each, ids].add(-shares)
    else:
        slopes = exponentials / total - (jnp.arange(table.shape[0]) == ids)
    if soft_cap is not None:
        slopes *= 1.0 - bent**2
    return ((weights * losses).sum(), (weights * is_correct).sum()), slopes


def _times_table(slopes, table):
    """(size, D) float32: `slopes` (size, V) times the table."""
    scale = _scale(table.dtype)
    product = jnp.matmul(
        (slopes * scale).astype(table.dtype), table, preferred_element_type="float32"
    )
    return product / scale


def _scale(dtype):
    """What keeps the slopes of a large vocabulary in the range of float16."""
    return 256.0 if dtype == "float16" else 1.0
