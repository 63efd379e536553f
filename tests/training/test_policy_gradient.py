"""The losses of GRPO and RLOO written out, and their slopes by every log-probability."""

import numpy as np
import pytest
from tasks import small_task

from keras_t5gemma2 import PolicyGradient
from keras_t5gemma2.training.policy_gradient import Group, step_of

LENGTHS = (3, 1, 4, 2, 5, 2)
KL_WEIGHT = 0.3


@pytest.fixture
def group(rng):
    log_probs = [-rng.uniform(0.1, 3, size=n) for n in LENGTHS]
    reference = [-rng.uniform(0.1, 3, size=n) for n in LENGTHS]
    return Group(rng.normal(size=(2, 3)), log_probs, reference)


def grpo(group, now, best_alone=False):
    """The loss of the paper, of probabilities that have moved away from those of the samples."""
    total = 0.0
    for i, (p, old, q) in enumerate(zip(now, group.log_probs, group.reference, strict=True)):
        of_row = group.rewards[i // 3]
        advantage = (of_row[i % 3] - of_row.mean()) / of_row.std()
        if best_alone:
            advantage = 3.0 if of_row[i % 3] == of_row.max() else 0.0
        terms = [
            np.exp(p[t] - old[t]) * advantage
            - KL_WEIGHT * (np.exp(q[t] - p[t]) - (q[t] - p[t]) - 1)
            for t in range(len(p))
        ]
        total += sum(terms) / len(terms)
    return -total / 6


def rloo(group, now):
    worth = np.array(
        [
            group.rewards[i // 3][i % 3] - KL_WEIGHT * (p - q).sum()
            for i, (p, q) in enumerate(zip(group.log_probs, group.reference, strict=True))
        ]
    )
    total = 0.0
    for i, p in enumerate(now):
        others = [j for j in range(6) if j // 3 == i // 3 and j != i]
        total += (worth[i] - worth[others].mean()) * p.sum()
    return -total / 6


def best_of_n(group, now):
    return grpo(group, now, best_alone=True)


@pytest.mark.once
@pytest.mark.parametrize("method", ["grpo", "rloo", "best_of_n"])
def test_weights_are_the_slopes_of_the_written_out_loss(group, method):
    written_out = {"grpo": grpo, "rloo": rloo, "best_of_n": best_of_n}[method]
    step = step_of(group, method, KL_WEIGHT)
    for i, weights in enumerate(step.weights):
        for t, weight in enumerate(weights):
            moved = []
            for sign in (1, -1):
                now = [p.copy() for p in group.log_probs]
                now[i][t] += sign * 1e-5
                moved.append(written_out(group, now))
            # The cross-entropy is minus the log-probability.
            assert weight == pytest.approx(-(moved[0] - moved[1]) / 2e-5, abs=1e-8)


@pytest.mark.once
def test_the_loss_of_rloo_is_the_written_out_one(group):
    step = step_of(group, "rloo", KL_WEIGHT)
    assert step.loss == pytest.approx(rloo(group, group.log_probs), rel=1e-12)


@pytest.mark.once
def test_the_loss_of_grpo_has_its_kl_and_the_log_probabilities(group):
    step = step_of(group, "grpo", KL_WEIGHT)
    kls = [
        np.exp(q - p) - (q - p) - 1 for p, q in zip(group.log_probs, group.reference, strict=True)
    ]
    flat = step.advantages.reshape(-1)
    want = [
        np.mean(-a * p + KL_WEIGHT * k) for a, p, k in zip(flat, group.log_probs, kls, strict=True)
    ]
    assert step.loss == pytest.approx(np.mean(want), rel=1e-12)
    assert step.kl == pytest.approx(np.concatenate(kls).mean(), rel=1e-12)


@pytest.mark.once
def test_without_rewards_that_differ_the_anchor_alone_is_left(group):
    flat = group._replace(rewards=np.full((2, 3), 0.1))
    step = step_of(flat, "grpo", KL_WEIGHT)
    for weights, p, q in zip(step.weights, flat.log_probs, flat.reference, strict=True):
        np.testing.assert_allclose(weights, KL_WEIGHT * (np.exp(q - p) - 1) / len(p) / 6)
    assert not any(w.any() for w in step_of(flat, "grpo", 0.0).weights)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"method": "ppo"},
            ValueError,
            r"`method` must be one of .*Received: method='ppo'",
        ),
        ({"kl_weight": -1}, ValueError, r"`kl_weight` must be at least 0. Received: kl_weight=-1"),
        ({"kl_weight": "1"}, TypeError, r"`kl_weight` must be a finite number"),
        ({"reference": 3}, TypeError, r"`reference` must be a T5Gemma2Seq2SeqLM or `None`"),
        ({"reward_weights": 3}, TypeError, r"`reward_weights` must be a list of numbers"),
        ({"max_new_tokens": 0}, ValueError, r"`max_new_tokens` must be at least 1"),
        ({"anchor_decay": 1.0}, ValueError, r"`anchor_decay` must be at least 0 and below 1"),
        ({"seed": -1}, ValueError, r"`seed` must be an integer of at least 0"),
    ],
)
def test_arguments_are_checked(arguments, kind, message):
    with pytest.raises(kind, match=message):
        PolicyGradient(**arguments)


@pytest.mark.once
def test_what_does_not_go_with_the_model_is_refused():
    lm = small_task()
    with pytest.raises(ValueError, match=r"for each of 2 reward functions. Received: .*\[1\.0\]"):
        PolicyGradient(reward_weights=[1.0]).check(lm, num_rewards=2)
    with pytest.raises(ValueError, match=r"another model than the one that learns"):
        PolicyGradient(reference=lm).check(lm, num_rewards=1)
