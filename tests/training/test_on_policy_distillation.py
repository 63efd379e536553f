"""Divergences of two distributions, and their slopes by the logits of one."""

import numpy as np
import pytest
from tasks import small_task

from keras_t5gemma2 import OnPolicyDistillation
from keras_t5gemma2.training.on_policy_distillation import divergence_of

pytestmark = pytest.mark.once


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def kl(one, two):
    return (np.exp(one) * (one - two)).sum(axis=-1)


def written_out(kind, student, teacher):
    if kind == "forward":
        return kl(teacher, student)
    if kind == "reverse":
        return kl(student, teacher)
    mixed = np.log(0.3 * np.exp(teacher) + 0.7 * np.exp(student))
    return 0.3 * kl(teacher, mixed) + 0.7 * kl(student, mixed)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_divergences_and_slopes(rng, kind):
    logits, teacher = rng.normal(size=(4, 7)), log_softmax(rng.normal(size=(4, 7)))
    found, slopes = divergence_of(log_softmax(logits), teacher, kind, beta=0.3)
    np.testing.assert_allclose(found, written_out(kind, log_softmax(logits), teacher))
    for token in range(7):
        step = 1e-5 * np.eye(7)[token]
        ends = [written_out(kind, log_softmax(logits + s * step), teacher) for s in (1, -1)]
        np.testing.assert_allclose(slopes[:, token], (ends[0] - ends[1]) / 2e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"teacher": 3}, TypeError, r"`teacher` must be a T5Gemma2Seq2SeqLM. Received: teacher=3"),
        ({"divergence": "kl"}, ValueError, r"`divergence` must be one of \('forward', 'reverse'"),
        ({"beta": 1}, ValueError, r"`beta` must be a number above 0 and below 1. Received: beta=1"),
        ({"seed": -1}, ValueError, r"`seed` must be an integer of at least 0"),
    ],
)
def test_arguments_are_checked(arguments, kind, message):
    with pytest.raises(kind, match=message):
        OnPolicyDistillation(**{"teacher": small_task(), **arguments})


def test_a_model_does_not_teach_itself():
    lm = small_task()
    with pytest.raises(ValueError, match=r"another model than the student"):
        OnPolicyDistillation(lm).check(lm)
