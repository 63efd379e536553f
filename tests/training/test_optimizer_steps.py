"""What goes with the optimizer's part of a step."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam, summed over two": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}


def trained(lora_plus, optimizer, epochs):
    """Variables of an adapter before and after training."""
    keras.utils.set_random_seed(0)
    lm = small_task()
    lm.compile(optimizer)
    lm.enable_lora(rank=2, target=["query", "down"], lora_plus=lora_plus)
    before = values(lm)
    lm.fit(SMALL_ROWS, batch_size=2, epochs=epochs, shuffle=False, verbose=0)
    return before, values(lm)


def values(lm):
    return {v.path: np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables}


@pytest.mark.once
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_first_steps_of_b_are_so_many_times_those_without(name):
    steps = 2 if "two" in name else 1
    start, plain = trained(None, OPTIMIZERS[name](), steps)
    same, plus = trained(16, OPTIMIZERS[name](), steps)
    for path, value in plain.items():
        np.testing.assert_array_equal(same[path], start[path])
        want = value - start[path]
        assert np.abs(want).max() > 0 or path.endswith("_a")  # A waits for B
        times = 16 if path.endswith("_b") else 1
        np.testing.assert_allclose(plus[path] - start[path], times * want, rtol=1e-4, atol=1e-7)


@pytest.mark.once
def test_averages_of_the_weights_are_refused():
    with pytest.raises(ValueError, match="use_ema=True"):
        trained(4, keras.optimizers.SGD(0.1, use_ema=True), 1)


@pytest.mark.once
@pytest.mark.parametrize("value", [0, -1, float("inf"), "16"])
def test_ratio_must_be_positive(value):
    with pytest.raises(ValueError, match="`lora_plus` must be a positive, finite number"):
        small_task().enable_lora(rank=2, lora_plus=value)
