"""One step on rewards, against the update written out with all logits, on each backend."""

import numpy as np
import pytest
from keras import ops
from tasks import small_task
from variable_gradients import gradients_by_variables

from keras_t5gemma2 import PolicyGradient
from keras_t5gemma2.training import policy_lesson

ROWS = ["the cat", "what is in the garden"]
RATE, KL_WEIGHT, COUNT = 0.5, 0.2, 4


def even(inputs, outputs):
    return [len(output) % 3 for output in outputs]


def longer(inputs, outputs):
    return [float(len(o) > len(i)) for i, o in zip(inputs, outputs, strict=True)]


@pytest.fixture
def recorded(monkeypatch):
    """The `Samples` of each step."""
    found, draw = [], policy_lesson.draw

    def recording(*args):
        found.append(draw(*args))
        return found[-1]

    monkeypatch.setattr(policy_lesson, "draw", recording)
    return found


def log_softmax_of(lm, samples):
    """A list of (T,) log-probability tensors, of repeated rows and all logits."""
    count = len(samples.ids) // len(samples.rows.prompts)
    found = []
    for number, ids in enumerate(samples.ids):
        row = number // count
        own = np.concatenate([samples.rows.prompts[row], ids])[None].astype("int32")
        encoder = samples.rows.encoder_ids[row][None].astype("int32")
        x = {
            "encoder_token_ids": encoder,
            "encoder_padding_mask": np.ones_like(encoder),
            "decoder_token_ids": own[:, :-1],
            "decoder_padding_mask": np.ones_like(own[:, :-1]),
        }
        logits = lm({name: ops.convert_to_tensor(value) for name, value in x.items()})
        table = ops.log_softmax(ops.cast(logits[0, -len(ids) :], "float32"), axis=-1)
        taken = ops.take_along_axis(table, ops.convert_to_tensor(ids[:, None]), axis=-1)
        found.append(taken[:, 0])
    return found


def written_out(lm, reference, samples, rewards, method):
    """The loss as the papers have it, whose gradient is that of the step."""
    now = log_softmax_of(lm, samples)
    held = [ops.convert_to_tensor(np.array(ops.convert_to_numpy(x))) for x in reference]
    old = [ops.stop_gradient(x) for x in now]
    total = 0.0
    for i, (p, q, before) in enumerate(zip(now, held, old, strict=True)):
        of_row = np.arange(len(now)) // COUNT == i // COUNT
        if method == "grpo":
            worth = rewards[of_row]
            advantage = (rewards[i] - worth.mean()) / worth.std()
            k = ops.exp(q - p) - (q - p) - 1
            total = total + ops.mean(ops.exp(p - before) * advantage - KL_WEIGHT * k)
        else:
            worth = [
                rewards[j] - KL_WEIGHT * ops.sum(old[j] - held[j]) for j in np.flatnonzero(of_row)
            ]
            mine = rewards[i] - KL_WEIGHT * ops.sum(before - q)
            others = (sum(worth) - mine) / (COUNT - 1)
            total = total + (mine - others) * ops.sum(p)
    return -total / len(now)


@pytest.mark.once
@pytest.mark.parametrize("method", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_a_step_is_the_written_out_update(method, recorded):
    lm, other = small_task(learning_rate=RATE), small_task(seed=3)
    before = [np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables]
    policy = PolicyGradient(
        method, KL_WEIGHT, other, reward_weights=[1.0, 2.0], max_new_tokens=5, seed=4
    )
    options = {"rewards": [even, longer], "num_samples": COUNT, "policy": policy}
    history = lm.fit(ROWS, **options, shuffle=False, verbose=0).history
    after = [np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables]

    (samples,) = recorded
    assert len(samples.texts) == len(ROWS) * COUNT
    rewards = np.array(even(samples.inputs, samples.texts)) + 2.0 * np.array(
        longer(samples.inputs, samples.texts)
    )
    assert all(np.ptp(rewards.reshape(-1, COUNT), axis=1) > 0)  # else nothing is learned
    for variable, value in zip(lm.trainable_variables, before, strict=True):
        variable.assign(value)
    reference = [ops.convert_to_numpy(x) for x in log_softmax_of(other, samples)]
    gradients = gradients_by_variables(
        lm.trainable_variables, lambda: written_out(lm, reference, samples, rewards, method)
    )
    moved = 0.0
    for old, new, slope in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(new - old, -RATE * slope, atol=2e-5)
        moved = max(moved, np.abs(new - old).max())
    assert moved > 1e-3
    assert history["reward"][0] == pytest.approx(rewards.mean())
    assert history["reward_even"][0] == pytest.approx(np.mean(even([], samples.texts)))


@pytest.mark.once
def test_the_model_is_held_to_itself_as_it_was(recorded):
    lm = small_task(learning_rate=RATE)
    start = [np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables]
    policy = PolicyGradient(kl_weight=KL_WEIGHT, max_new_tokens=5)
    logs = lm.fit(
        ROWS, rewards=[even], num_samples=COUNT, policy=policy, epochs=2, shuffle=False, verbose=0
    ).history
    assert logs["kl"][0] == pytest.approx(0.0, abs=1e-6) and logs["kl"][1] > 1e-4
    for variable, value in zip(lm.trainable_variables, start, strict=True):
        variable.assign(value)
    reference = [ops.convert_to_numpy(x) for x in log_softmax_of(lm, recorded[1])]
    ratios = np.concatenate(reference) - np.concatenate(recorded[1].log_probs)
    assert logs["kl"][1] == pytest.approx(np.mean(np.exp(ratios) - ratios - 1), rel=1e-3)
