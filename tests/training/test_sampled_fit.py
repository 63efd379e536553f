"""`fit` with rewards from end to end: what it reads, logs and calls, and that a model learns."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from tasks import ONE_LAYER, small_task, tiny_task
from tiny_models import DECODER, LOCAL

from keras_t5gemma2 import ExpertsConfig, PolicyGradient, TrainingCheckpoint

ROWS = ["the cat", "what is in the garden"]
POLICY = PolicyGradient(kl_weight=0.0, max_new_tokens=6)
LOGS = {"loss", "reward", "reward_std", "length", "finished", "learning_rate", "tokens_per_second"}


def brief(inputs, outputs):
    return [-float(len(output)) for output in outputs]


def weights_of(lm):
    return [np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables]


class Seen(keras.callbacks.Callback):
    """What callbacks are told, in order."""

    def __init__(self, stops_after=None):
        super().__init__()
        self.calls, self.stops_after = [], stops_after

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch}")

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(f"batch {batch}")
        assert set(logs) == LOGS
        self.model.stop_training = len(self.calls) == self.stops_after

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"end {epoch}")


@pytest.mark.once
def test_a_model_learns_to_be_brief():
    lm, seen = small_task(learning_rate=0.3), Seen()
    said = []

    def spy(inputs, outputs):
        said.append(inputs)
        return brief(inputs, outputs)

    history = lm.fit(
        ROWS, rewards=[spy], num_samples=6, policy=POLICY, epochs=8, callbacks=[seen], verbose=0
    ).history
    assert set(history) == LOGS
    assert np.mean(history["reward"][-2:]) > np.mean(history["reward"][:2]) + 1
    assert seen.calls[:3] == ["epoch 0", "batch 0", "end 0"] and len(seen.calls) == 24
    # A string for each sample, of the rows in the order of the batch.
    assert [sorted(inputs) for inputs in said] == [sorted(ROWS * 6)] * 8
    # The same call with plain targets goes on as ever.
    rows = {"encoder_text": ROWS, "decoder_text": ["a dog", "a bee"]}
    losses = lm.fit(rows, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.once
def test_targets_are_not_read_and_the_seed_says_what_is_drawn():
    plain, with_targets, other = (small_task() for _ in range(3))
    rows = {"encoder_text": ROWS, "decoder_text": ["a dog", "a bee"]}
    options = {"rewards": brief, "num_samples": 3, "shuffle": False, "verbose": 0}
    plain.fit(ROWS, policy=POLICY, **options)
    with_targets.fit(rows, policy=POLICY, **options)
    for one, two in zip(weights_of(plain), weights_of(with_targets), strict=True):
        np.testing.assert_array_equal(one, two)
    seeded = PolicyGradient(kl_weight=0.0, max_new_tokens=6, seed=1)
    other.fit(ROWS, policy=seeded, **options)
    pairs = zip(weights_of(plain), weights_of(other), strict=True)
    assert any((one != two).any() for one, two in pairs)


@pytest.mark.once
def test_batches_validation_and_an_early_end():
    lm, seen = small_task(), Seen(stops_after=3)
    rows = {"encoder_text": ROWS, "decoder_text": ["a dog", "a bee"]}
    history = lm.fit(
        [*ROWS, "a red bee"],
        batch_size=1,
        rewards=[brief],
        num_samples=2,
        policy=POLICY,
        validation_data=rows,
        steps_per_epoch=2,
        epochs=5,
        callbacks=[seen],
        verbose=0,
    ).history
    assert seen.calls == ["epoch 0", "batch 0", "batch 1", "end 0"]
    # The steps of the second epoch were not asked for after the first had stopped.
    assert len(history["val_loss"]) == 1
    assert history["val_loss"][0] == pytest.approx(lm.evaluate(rows, verbose=0)[0], rel=1e-4)


@pytest.mark.once
def test_an_interrupted_run_is_taken_up(tmp_path):
    whole, first, second = (small_task(learning_rate=0.1) for _ in range(3))
    options = {"rewards": [brief], "num_samples": 2, "policy": POLICY, "shuffle": False}
    options |= {"batch_size": 1, "verbose": 0}
    whole.fit(ROWS, epochs=2, **options)
    first.fit(ROWS, callbacks=[TrainingCheckpoint(tmp_path, delete_checkpoint=False)], **options)
    second.fit(ROWS, epochs=2, callbacks=[TrainingCheckpoint(tmp_path)], **options)
    for one, two in zip(weights_of(whole), weights_of(second), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.once
def test_adapters_alone_are_trained():
    lm = small_task()
    lm.backbone.enable_lora(rank=2)
    before = {w.path: np.array(ops.convert_to_numpy(w)) for w in lm.backbone.weights}
    lm.compile(optimizer=keras.optimizers.SGD(0.5))
    policy = PolicyGradient(max_new_tokens=6)
    lm.fit(ROWS, rewards=[brief], num_samples=3, policy=policy, epochs=2, verbose=0)
    changed = [
        w.path for w in lm.backbone.weights if (before[w.path] != ops.convert_to_numpy(w)).any()
    ]
    assert changed and all("lora" in path for path in changed)


@pytest.mark.once
def test_losses_of_layers_move_what_the_rewards_do_not():
    """Equal rewards give no slope: what moves the routers is their balance."""
    experts = dataclasses.replace(DECODER, layers=(LOCAL,), experts=ExpertsConfig(2, 1, every=1))
    lm = small_task(dataclasses.replace(ONE_LAYER, decoder=experts))
    router = lm.backbone.decoder.blocks[0].mlp.router
    before = np.array(ops.convert_to_numpy(router))
    lm.fit(ROWS, rewards=lambda _, outputs: [0.0] * len(outputs), policy=POLICY, verbose=0)
    assert np.abs(ops.convert_to_numpy(router) - before).max() > 1e-7


@pytest.mark.once
def test_no_alarm_where_all_is_well():
    """Of rows without images nothing that sees has a gradient."""
    lm = tiny_task()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lm.fit(ROWS, rewards=brief, num_samples=2, policy=POLICY, verbose=0)
        # Targets are not read, in whatever form they come.
        for targets in (["a dog", "a bee"], [["a dog", "a"], ["a bee"]]):
            pairs = (ROWS, targets)
            lm.fit(pairs, rewards=brief, num_samples=2, policy=POLICY, verbose=0)


@pytest.mark.once
def test_an_average_is_in_no_checkpoint(tmp_path):
    policy = PolicyGradient(max_new_tokens=6, anchor_decay=0.9)
    callbacks = [TrainingCheckpoint(tmp_path)]
    with pytest.raises(ValueError, match=r"`anchor_decay` must be `None`.*Give a `reference`"):
        small_task().fit(ROWS, rewards=brief, policy=policy, callbacks=callbacks, verbose=0)


@pytest.mark.once
def test_dialogues_and_texts_are_not_mixed():
    dialogue = [{"role": "user", "content": "the cat"}]
    rows = (row for row in ({"messages": [dialogue]}, {"encoder_text": ["the cat"]}))
    with pytest.raises(ValueError, match=r"row 0 is one, and row 1 is none"):
        small_task().fit(rows, rewards=brief, policy=POLICY, verbose=0)
