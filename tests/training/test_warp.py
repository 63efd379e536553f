"""Policies that are trained from one start, joined, and the start of the next round."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import WARP, OnPolicyDistillation, PolicyGradient
from keras_t5gemma2.model.merging import slerp

ROW = ["the cat"]
POLICY = PolicyGradient(kl_weight=0.5, anchor_decay=0.5, max_new_tokens=5)


def brief(inputs, outputs):
    return [-float(len(output)) for output in outputs]


def adam_task():
    lm = small_task()
    lm.compile(keras.optimizers.Adam(0.01), sampler="greedy")
    return lm


def weights_of(lm):
    return [np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables]


def trained(lm, *callbacks, policy=POLICY, **options):
    options = {"num_samples": 4, "shuffle": False, "verbose": 0, **options}
    return lm.fit(ROW, rewards=[brief], policy=policy, callbacks=list(callbacks), **options)


class Watch(keras.callbacks.Callback):
    """The weights after each step, before `WARP` has changed them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(weights_of(self.model))


def joined(start, policies, share):
    """The next start, written out."""
    found = []
    for first, *values in zip(start, *policies, strict=True):
        values = [value.astype("float64") for value in values]
        whole = slerp(values, [1 / len(values)] * len(values), first.astype("float64"))
        found.append((1 - share) * first + share * whole)
    return found


@pytest.mark.once
def test_a_round_is_as_runs_apart_that_are_joined():
    """A run of one row that begins at a later epoch draws the samples of the second policy."""
    lm, first, second = adam_task(), adam_task(), adam_task()
    start, watch, warp = weights_of(lm), Watch(), WARP(every=2, policies=2, share=0.4)
    trained(lm, watch, warp, epochs=4)
    assert warp.rounds == 1
    trained(first, epochs=2)
    trained(second, epochs=4, initial_epoch=2)
    for apart, seen in ((first, watch.found[1]), (second, watch.found[3])):
        for one, two in zip(weights_of(apart), seen, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
    pairs = zip(watch.found[1], watch.found[3], strict=True)
    assert any(np.abs(one - two).max() > 1e-3 for one, two in pairs)
    wanted = joined(start, [watch.found[1], watch.found[3]], 0.4)
    for value, want in zip(weights_of(lm), wanted, strict=True):
        np.testing.assert_allclose(value, want, atol=1e-6)


@pytest.mark.once
def test_rounds_go_on_from_each_other_and_a_short_one_counts():
    """Two rounds of three policies, one step each, and a step of a third."""
    lm, watch, warp = adam_task(), Watch(), WARP(every=1, policies=3, share=1.0)
    start = weights_of(lm)
    trained(lm, watch, warp, epochs=7)
    assert warp.rounds == 3
    for number in (0, 3, 6):
        start = joined(start, watch.found[number : number + 3], 1.0)
    for value, want in zip(weights_of(lm), start, strict=True):
        np.testing.assert_allclose(value, want, atol=1e-5)


@pytest.mark.once
def test_adapters_alone_are_joined_and_a_callback_is_used_again():
    lm, warp = adam_task(), WARP(every=1)
    lm.enable_lora(rank=2, target=["query"])
    kernels = [np.array(ops.convert_to_numpy(v)) for v in lm.backbone.non_trainable_variables]
    for _ in range(2):
        trained(lm, warp, epochs=4, policy=PolicyGradient(anchor_decay=0.9, max_new_tokens=5))
        assert warp.rounds == 2
    for variable, value in zip(lm.backbone.non_trainable_variables, kernels, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


@pytest.mark.once
def test_what_is_no_round_is_refused():
    for given, message in (
        ({"every": 0}, "`every` must be an integer of at least 1"),
        ({"every": 1, "policies": 1}, "`policies` must be an integer of at least 2"),
        ({"every": 1, "share": 0}, "`share` must be a number above 0 and at most 1.*share=0"),
        ({"every": 1, "share": "all"}, "`share` must be a number.*'all'"),
    ):
        with pytest.raises(ValueError, match=message):
            WARP(**given)
    lm, message = small_task(), "own moving average.*anchor_decay=0.99"
    with pytest.raises(ValueError, match=message):
        trained(lm, WARP(every=1), policy=PolicyGradient(max_new_tokens=5))
    with pytest.raises(ValueError, match=message):
        lm.fit(
            ROW,
            distillation=OnPolicyDistillation(small_task()),
            callbacks=[WARP(every=1)],
            verbose=0,
        )
    with pytest.raises(ValueError, match="must be among the callbacks of `fit` with `rewards`"):
        lm.fit(SMALL_ROWS, callbacks=[WARP(every=1)], verbose=0)
