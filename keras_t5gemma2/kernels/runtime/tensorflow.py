"""TensorFlow's gradients, replicas and compiler."""

import keras
import tensorflow as tf

from keras_t5gemma2.kernels.runtime.reference import (  # noqa: F401  chosen from here by `dispatch`
    by_platform,
    has_mark,
    is_one_cpu,
    map_blocks,
    mark_of,
    platform_at_hand,
    platform_of,
)


def differentiable(forward, backward):
    """See `runtime.jax.differentiable`."""

    def function(fixed, *tensors):
        @tf.custom_gradient
        def call(*tensors):
            output, extra = forward(fixed, *tensors)
            return output, lambda upstream: backward(fixed, tensors, output, extra, upstream)

        return call(*tensors)

    return function


def rematerialized(function):
    """See `runtime.jax.rematerialized`."""

    @tf.custom_gradient
    def call(*tensors):
        def backward(*upstream, variables=()):
            # Those are frozen: TensorFlow counts them by what they were when they were made.
            return _gradients_again(function, tensors, upstream), [None] * len(variables)

        return function(*tensors), backward

    # Where nothing is compiled, every step would trace the function anew.
    return lambda *tensors: (keras.remat(function) if tf.executing_eagerly() else call)(*tensors)


def _gradients_again(function, tensors, upstream):
    """The gradients of `function` from a second run, all of whose work waits for `upstream`."""

    # A function that is not inlined begins when all its arguments are there. Inlined, whatever in
    # it needs no activation, such as the masks of attention, would be made for all layers at once.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def again(tensors, upstream):
        # XLA inlines, and would take the values of the first run: these it cannot know to be the
        # same. A replica without rows has not even one.
        nothing = tf.reduce_sum(tf.reshape(upstream[0], [-1])[:1]) * 0
        tensors = [tensor + tf.cast(nothing, tensor.dtype) for tensor in tensors]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = tf.nest.flatten(function(*tensors))
        return tape.gradient(outputs, tensors, list(upstream), unconnected_gradients="zero")

    return again(tensors, upstream)


def summed_over_replicas(x):
    """See `runtime.jax`: the replicas are those of a `tf.distribute.Strategy`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce("sum", x)


def num_replicas():
    """See `runtime.jax`: the replicas are those of a `tf.distribute.Strategy`."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def sums_of_metrics(sums):
    """See `runtime.jax`: variables of metrics add up what each replica has put in."""
    return sums


def prepare_training(_):
    """See `runtime.torch_processes`: Keras's optimizers add up the gradients of all replicas."""
    return


def check_parameters(_):
    """See `runtime.torch_processes`: nothing else than Keras holds variables here."""
    return


def compiled_step(function, _):
    """See `runtime.torch_step`: here a step is part of a program that is compiled whole."""
    return function


def is_traced(_):
    """See `runtime.jax.is_traced`."""
    return tf.inside_function()


def compiles(task):
    """See `runtime.jax.compiles`."""
    return not task.run_eagerly


def compiled(function, task, _=()):
    """See `runtime.jax.compiled`."""
    # Keras would use XLA where there is an accelerator only. But without it loops copy buffers.
    if task.run_eagerly:
        return function
    return tf.function(function, autograph=False, jit_compile=True)


def widened(matrix, x):
    """See `runtime.jax`."""
    is_other = tf.reshape(x, (-1,))[0] > float("inf")  # always False, but no compiler knows
    matrix = tf.convert_to_tensor(keras.ops.convert_to_tensor(matrix))  # of TensorFlow's own dtype

    @tf.custom_gradient
    def of_floats(matrix):
        bits = tf.bitcast(matrix, tf.uint16)
        bits = tf.bitwise.bitwise_xor(bits, tf.cast(is_other, tf.uint16))
        wide = tf.cast(tf.bitcast(bits, matrix.dtype), tf.float32)
        return wide, lambda upstream: tf.cast(upstream, matrix.dtype)

    if matrix.dtype.is_floating:
        return of_floats(matrix)
    codes = tf.bitwise.bitwise_xor(matrix, tf.cast(is_other, matrix.dtype))
    return tf.cast(codes, tf.float32)


def take_rows(table, ids):
    """See `runtime.jax`."""

    @tf.custom_gradient
    def take(table):
        rows = tf.bitcast(tf.gather(tf.bitcast(table, tf.uint16), ids), table.dtype)

        def gradient(upstream):
            sums = tf.reshape(upstream, (-1, upstream.shape[-1])), tf.reshape(ids, (-1,))
            return tf.math.unsorted_segment_sum(*sums, table.shape[0])

        return rows, gradient

    return take(table)
