"""The loss over chunks of tokens on JAX, which makes its gradient on the way."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from keras_t5gemma2.kernels.runtime.jax import spread
from keras_t5gemma2.sharding.batch import data_axis


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


def _dealt(x, size, shards):
    """Tokens reordered so that every device has equally many of each chunk of `size`."""
    x = x.reshape(shards, -1, size // shards, *x.shape[1:])
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
    if of_table is not None and table.value.dtype == "bfloat16":
        # It waits for the whole backward pass, and nothing there is larger. Without the barrier
        # compilers leave the rounding for later.
        of_table = lax.optimization_barrier(of_table.astype("bfloat16"))
    # Arrays of no size, which carry the dtypes of the arguments.
    dtypes = [jnp.zeros((0,), value.dtype) for value in values[:2]]
    return sums, (of_hidden, of_table, dtypes)


def _backward(soft_cap, size, axis, kept, upstream):
    *gradients, dtypes = kept
    scaled = [
        None if gradient is None else (gradient.astype("float32") * upstream[0]).astype(like.dtype)
        for gradient, like in zip(gradients, dtypes, strict=True)
    ]
    return (*scaled, None, None, None)


_sums.defvjp(_forward, _backward, symbolic_zeros=True)


def _scan(hidden, table, labels, weights, targets, soft_cap, size, axis, wanted=(False, False)):
    """Loss and correct tokens summed, and the float32 gradients of the loss that are wanted."""
    chunks = [x.reshape(-1, size, *x.shape[1:]) for x in (hidden, labels, weights, *targets)]
    cast, shards = table.astype(hidden.dtype), 1
    if axis is not None:
        # A device has its tokens of each chunk and, of its rows of the table, all columns. What
        # its tokens give to the gradient of the table is added up once, after the last chunk.
        mesh, (name, shards) = axis[0].backend_mesh, axis[1:]
        chunks = [spread(x, mesh, None, name) for x in chunks]
        cast = spread(cast, mesh, PartitionSpec.UNCONSTRAINED, None)

    def body(carry, chunk):
        sums, of_table = carry
        fresh, slopes = _chunk(*chunk[:3], chunk[3:], cast, soft_cap)
        of_hidden = _times_table(slopes, cast) * chunk[2][:, None] if wanted[0] else None
        if wanted[1]:
            weighted = chunk[0].astype("float32") * chunk[2][:, None]
            of_table += _by_shard(slopes, weighted, shards)
            if axis is not None:
                of_table = spread(of_table, mesh, name, PartitionSpec.UNCONSTRAINED)
        return ((sums[0] + fresh[0], sums[1] + fresh[1]), of_table), of_hidden

    of_table = jnp.zeros((shards, *table.shape), "float32") if wanted[1] else None
    zero = jnp.zeros((), "float32")
    (sums, of_table), of_hidden = lax.scan(body, ((zero, zero), of_table), tuple(chunks))
    of_table = of_table.sum(axis=0) if wanted[1] else None
    return sums, of_hidden.reshape(hidden.shape) if wanted[0] else None, of_table


def _by_shard(slopes, hidden, shards):
    """Float32 (shards, V, D): per shard of the tokens, `slopes` (., V) times `hidden` (., D)."""
    slopes, hidden = (x.reshape(shards, -1, x.shape[-1]) for x in (slopes, hidden))
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
