"""TensorFlow's gradients, replicas and compiler."""

import keras
import numpy as np
import pytest
from runtime_checks import check_differentiable, check_map_blocks, check_rematerialized, task

pytestmark = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="imports it")
if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    from keras_t5gemma2.kernels.runtime import tensorflow as runtime


def test_gradients_and_loops():
    check_differentiable(runtime)
    check_rematerialized(runtime)
    check_map_blocks(runtime)


def test_a_gradient_is_computed_again_where_nothing_is_compiled():
    x = tf.constant([2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        output, _ = runtime.rematerialized(lambda x: (x * x, x))(x)
    np.testing.assert_array_equal(tape.gradient(output, x), [4.0, 6.0])


def test_a_program_reads_variables_as_they_are():
    variable, traced = keras.Variable(2.0), []

    def function(carried, more):
        traced.append(runtime.is_traced(carried))
        return carried * variable + more["x"]

    program = runtime.compiled(function, task())
    assert runtime.compiles(task())
    for value in (3.0, 4.0):
        variable.assign(value)
        found = program(tf.ones(2), {"x": tf.constant(0.5)})
        np.testing.assert_array_equal(found, [value + 0.5] * 2)
    assert traced == [True] and not runtime.is_traced(tf.ones(2))


def test_what_runs_eagerly_is_the_function_itself():
    eager = task(run_eagerly=True)
    assert not runtime.compiles(eager) and runtime.compiled(len, eager) is len
    assert runtime.compiled_step(len, task()) is len
    assert runtime.prepare_training(eager) is runtime.check_parameters(eager) is None
    assert runtime.sums_of_metrics(3) == 3


def test_one_replica_sums_up_itself_alone():
    x = tf.constant(3.0)
    assert runtime.summed_over_replicas(x) is x
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():  # between replicas
        assert runtime.summed_over_replicas(x) is x
