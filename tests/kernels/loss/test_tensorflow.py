"""What TensorFlow makes of gradients of the loss."""

import keras
import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels.loss import reference

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="the loss of TensorFlow"
)


@pytest.fixture
def problem(rng):
    """Hidden states (30, 7), a table (53, 7), labels and weights."""
    hidden, table = (
        ops.convert_to_tensor(rng.standard_normal(shape, "float32")) for shape in ((30, 7), (53, 7))
    )
    labels = ops.convert_to_tensor(rng.integers(0, 53, size=30), dtype="int32")
    return hidden, table, labels, ops.convert_to_tensor(rng.uniform(0, 2, 30).astype("float32"))


def test_a_variable_gets_its_gradient_where_nothing_is_compiled(problem):
    import tensorflow as tf

    hidden, table, labels, weights = problem
    _, want = value_and_gradients(
        lambda *tensors: reference.linear_cross_entropy(*tensors, labels, weights)[0],
        [hidden, table],
    )
    variable = keras.Variable(table)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        loss = kernels.linear_cross_entropy(hidden, variable, labels, weights, chunk_size=8).loss
    for gradient, expected in zip(tape.gradient(loss, [hidden, variable.value]), want, strict=True):
        np.testing.assert_allclose(gradient, expected, **TOLERANCE["float32"])


def test_only_the_gradients_that_are_wanted_are_made(problem):
    import tensorflow as tf

    from keras_t5gemma2.kernels.loss import tensorflow as loss

    hidden, table, *others = problem
    for wanted in ((True, False), (False, True), (False, False)):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            sums = loss.sums_over_chunks(hidden, table, *others, (), None, 10, wanted)
        made = tape.gradient(sums[0], [hidden, table])
        # What makes no gradient of its own leaves it to the tape.
        assert wanted == (False, False) or [x is not None for x in made] == list(wanted)
        want = reference.linear_cross_entropy(hidden, table, *others)
        for one, other in zip(sums, want, strict=True):
            np.testing.assert_allclose(one, other, **TOLERANCE["float32"])
