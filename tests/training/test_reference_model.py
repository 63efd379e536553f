"""A model that is held to itself as it was gets its own weights back."""

import numpy as np
import pytest
from keras import ops
from tasks import small_task

from keras_t5gemma2 import PolicyGradient
from keras_t5gemma2.training import reference_model
from keras_t5gemma2.training.reference_model import reference_of


@pytest.mark.parametrize("decay", [None, 0.75])
def test_the_copy_stays_or_follows_the_model(monkeypatch, decay):
    lm = small_task()
    reference = reference_of(PolicyGradient(anchor_decay=decay), lm)
    variable = lm.trainable_variables[0]
    start, seen = np.array(ops.convert_to_numpy(variable)), []

    def spy(task, samples):
        seen.append(np.array(ops.convert_to_numpy(task.trainable_variables[0])))

    monkeypatch.setattr(reference_model, "log_probs_of", spy)
    for _ in range(2):
        variable.assign(variable + 1.0)
        reference(None)
    wanted = [0.0, 0.0] if decay is None else [0.25, 0.75 * 0.25 + 0.25 * 2]
    for found, more in zip(seen, wanted, strict=True):
        np.testing.assert_allclose(found, start + more, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(variable), start + 2.0, atol=1e-6)


def test_weights_are_put_back_whatever_happens(monkeypatch):
    lm = small_task()
    reference = reference_of(PolicyGradient(), lm)
    start = [np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables]
    for variable in lm.trainable_variables:
        variable.assign(variable + 1.0)

    def fails(task, samples):
        for variable, value in zip(task.trainable_variables, start, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
        raise MemoryError

    monkeypatch.setattr(reference_model, "log_probs_of", fails)
    with pytest.raises(MemoryError):
        reference(None)
    for variable, value in zip(lm.trainable_variables, start, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value + 1.0)


def test_small_steps_of_an_average_are_not_lost_in_bfloat16(monkeypatch):
    lm = small_task(dtype="bfloat16")
    reference = reference_of(PolicyGradient(anchor_decay=0.99), lm)
    variable = lm.trainable_variables[0]
    start = np.array(ops.convert_to_numpy(ops.cast(variable, "float32")))
    variable.assign(ops.cast(start + 1.0, "bfloat16"))
    more = np.array(ops.convert_to_numpy(ops.cast(variable, "float32"))) - start
    seen = []

    def spy(task, samples):
        seen.append(ops.convert_to_numpy(ops.cast(task.trainable_variables[0], "float32")))

    monkeypatch.setattr(reference_model, "log_probs_of", spy)
    for _ in range(40):
        reference(None)
    want = start + (1 - 0.99**40) * more
    np.testing.assert_allclose(seen[-1], want, rtol=2**-7, atol=1e-3)
