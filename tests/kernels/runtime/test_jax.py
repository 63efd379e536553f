"""JAX's gradients, loops, compiler and devices."""

import keras
import numpy as np
import pytest
from meshes import device_mesh
from runtime_checks import check_differentiable, check_map_blocks, check_rematerialized, task

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="imports JAX")
if keras.config.backend() == "jax":
    import jax
    import jax.numpy as jnp

    from keras_t5gemma2.kernels.runtime import jax as runtime


def test_gradients_and_loops():
    check_differentiable(runtime)
    check_rematerialized(runtime)
    check_map_blocks(runtime)


def test_a_gradient_is_computed_again_whatever_comes_from_above():
    """Also where it is infinite, or not a number."""

    def loss(x, factor):
        return runtime.rematerialized(lambda x: (x * x, None))(x)[0] * factor

    for factor in (jnp.inf, jnp.nan, -3.0):
        slope = jax.jit(jax.grad(loss))(2.0, factor)
        np.testing.assert_array_equal(slope, 4.0 * factor)


def test_a_program_reads_variables_as_they_are_and_changes_those_it_may():
    read, changed = keras.Variable([1.0, 2.0]), keras.Variable(0.0)
    traced = []

    def function(carried, more):
        traced.append(runtime.is_traced({"a": carried}))
        changed.assign(changed + 1.0)
        return carried * read + more["x"]

    program = runtime.compiled(function, task(trainable_variables=[read]), [changed])
    assert runtime.compiles(task())
    for weight in (3.0, 4.0):
        read.assign([weight, 1.0])
        found = program(jnp.ones(2), {"x": jnp.full(2, 0.5)})
        np.testing.assert_array_equal(found, [weight + 0.5, 1.5])
    assert traced == [True] and float(changed.value) == 2.0
    assert not runtime.is_traced({"a": jnp.ones(2)}) and not runtime.is_traced([])


def test_a_variable_that_is_not_changed_keeps_its_value():
    state = keras.Variable(5.0)
    program = runtime.compiled(lambda carried: carried + state, task(), [state])
    assert float(program(jnp.ones(()))) == 6.0 and float(state.value) == 5.0


def test_the_memory_of_what_is_carried_is_used_again():
    carried = jnp.ones(3)
    runtime.compiled(lambda x: x + 1, task())(carried)
    assert carried.is_deleted()


def test_what_runs_eagerly_is_the_function_itself():
    eager = task(run_eagerly=True)
    assert not runtime.compiles(eager) and runtime.compiled(len, eager) is len
    assert runtime.compiled_step(len, task()) is len
    assert runtime.prepare_training(eager) is runtime.check_parameters(eager) is None
    assert runtime.summed_over_replicas(3) == runtime.sums_of_metrics(3) == 3


def test_axes_of_a_mesh():
    mesh = device_mesh(2, 4).backend_mesh
    found = jax.jit(lambda x: runtime.spread(x, mesh, "batch", "model"))(jnp.ones((4, 8, 3)))
    assert {shard.data.shape for shard in found.addressable_shards} == {(2, 2, 3)}
