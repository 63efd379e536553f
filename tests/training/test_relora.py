"""Adapters merged into the weights every so many steps, and begun anew."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import ReLoRA
from keras_t5gemma2.training.optimizer_steps import state_of

TARGET = ["query", "down"]


def numbers(x):
    return np.array(ops.convert_to_numpy(x))


def adapted(optimizer, **options):
    keras.utils.set_random_seed(0)
    lm = small_task()
    lm.compile(optimizer)
    lm.enable_lora(rank=2, target=TARGET, **options)
    return lm


def fitted(lm, *callbacks, epochs):
    options = dict(batch_size=2, epochs=epochs, shuffle=False, verbose=0)
    return lm.fit(SMALL_ROWS, callbacks=list(callbacks), **options)


class Watch(keras.callbacks.Callback):
    """Kernel, A, B and what the layer computes, after each step; stands before `ReLoRA`."""

    def __init__(self, lm):
        super().__init__()
        (self.path, *_), self.lm = lm.adapter_set.trained_adapters(), lm
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.adapter_set.layers()[self.path]
        adapter = layer.adapters["default"]
        state = state_of(self.model.optimizer, adapter.b)
        values = layer.matrix_variable, adapter.a, adapter.b, layer.merged_kernel()
        self.found.append(([numbers(v) for v in values], [numbers(v) for v in state]))


@pytest.mark.once
def test_the_model_stays_and_the_adapter_begins_anew():
    """Steps 1, 2 | 3, 4 | 5: the kernel changes in between alone, by scale A B."""
    lm = adapted(keras.optimizers.Adam(0.05), alpha=4)
    before, again, after = Watch(lm), ReLoRA(every=2, warmup=0), Watch(lm)
    fitted(lm, before, again, after, epochs=5)
    assert again.restarts == 2
    first = before.found[0][0][0]
    for step, (old, new) in enumerate(zip(before.found, after.found, strict=True), start=1):
        (kernel, _, b, whole), state = old
        assert b.any() and len(state) == 2 and all(s.any() for s in state)
        np.testing.assert_allclose(new[0][3], whole, atol=1e-6)
        np.testing.assert_array_equal(kernel, first)
        if step % 2 == 0:
            first = new[0][0]
            np.testing.assert_allclose(first, whole, atol=1e-6)
            assert not new[0][2].any() and new[0][1].any() and (new[0][1] != old[0][1]).all()
            assert not any(s.any() for s in new[1])
        else:
            np.testing.assert_array_equal(new[0][0], first)
    assert np.linalg.matrix_rank(whole - before.found[0][0][0], tol=1e-5) > 2


@pytest.mark.once
def test_first_steps_after_a_restart_are_shorter():
    """Of plain descent, whose steps go by the gradient and the rate alone."""
    lm = adapted(keras.optimizers.SGD(0.1))
    plain = adapted(keras.optimizers.SGD(0.1))
    watches = []
    for one, warmup in ((lm, 3), (plain, 0)):
        watch = Watch(one)
        keras.utils.set_random_seed(1)  # of what A begins as
        fitted(one, watch, ReLoRA(every=2, warmup=warmup), epochs=4)
        watches.append([found[0][2] for found in watch.found])
    for step, ratio in ((0, 1.0), (1, 1.0), (2, 0.25)):
        np.testing.assert_allclose(watches[0][step], ratio * watches[1][step], atol=1e-6)
    assert lm.adapter_set.shortened is None


@pytest.mark.once
def test_what_cannot_be_merged_is_refused():
    def quantized():
        lm = adapted("adam")
        lm.quantize("int8")
        return lm

    for make, message in (
        (small_task, "must have an adapter to merge"),
        (quantized, "must have kernels of floats"),
        (lambda: adapted("adam", use_dora=True), "use_dora=True"),
        (lambda: adapted("adam", init="pissa"), "init='pissa'"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted(make(), ReLoRA(every=2), epochs=1)
    for given in ({"every": 0}, {"every": 1.5}, {"every": 2, "warmup": -1}):
        with pytest.raises(ValueError, match="must be an integer of at least"):
            ReLoRA(**given)
