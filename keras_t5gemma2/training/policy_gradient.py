"""How rewards become a step: the losses, and what the cross-entropy of each token is times."""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked, counted, number
from keras_t5gemma2.training.rewards import best_alone, left_out_rewards, relative_rewards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM

METHODS = ("grpo", "rloo", "best_of_n")


class PolicyGradient:
    """How `fit` learns from `rewards`: what a better sample is worth, and what holds the model.

    Every sample is drawn from the model as it is, at temperature 1, and is learned from once, so
    that no ratio of old to new probabilities has to be clipped. With the rewards r of the n
    samples of one row:

    - "grpo": a sample is worth A = (r - mean) / standard deviation. The loss is the mean over
      samples of the mean over tokens of -A log p + kl_weight k. (arXiv 2402.03300)
    - "rloo": kl_weight times the sum of log(p / q) over its tokens is taken off the reward of each
      sample, which then is worth A = r - mean of the n - 1 others. The loss is the mean over
      samples of the sum over tokens of -A log p. (arXiv 2402.14740)
    - "best_of_n": the best sample of a row (the first of several) is worth A = n and the others 0,
      in the loss of "grpo": the model learns to write at once what it now writes at best, which
      is the forward part of BOND. (arXiv 2407.14622)

    p is the model's probability of a token and q that of the reference model; k, which is never
    negative, is q / p - log(q / p) - 1.

    Args:
        method: "grpo", "rloo" or "best_of_n".
        kl_weight: float, at least 0. How strongly the model is held to the reference model; 0 for
            not at all, and then there is none.
        reference: a `T5Gemma2Seq2SeqLM` of the same vocabulary, or `None`: the model as it is
            when `fit` begins, of which a copy of the trained weights is kept.
        anchor_decay: float, from 0 to below 1, or `None`. The copy follows the model: before each
            step it becomes anchor_decay times itself and the rest of the model, so that what the
            model is held to is an average of what it was, the anchor of WARP. (arXiv 2406.16768)
        reward_weights: list of floats, what the rewards of each function are times before they are
            added up; by default 1.
        max_new_tokens: int. Of a sample; by default 256, or what the preprocessor's
            `decoder_sequence_length` leaves room for.
        seed: int. Of the samples.

    Raises:
        ValueError, TypeError: an argument is not as it should be.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> def brief(inputs, outputs):
    ...     return [float(len(output) <= 4) for output in outputs]
    >>> policy = keras_t5gemma2.PolicyGradient("rloo", max_new_tokens=4)
    >>> logs = lm.fit(["Say 37!"], rewards=[brief], num_samples=4, policy=policy, verbose=0)
    >>> sorted(logs.history)[:5]
    ['finished', 'kl', 'learning_rate', 'length', 'loss']
    """

    def __init__(
        self,
        method: Literal["grpo", "rloo", "best_of_n"] = "grpo",
        kl_weight: float = 0.04,
        reference: "T5Gemma2Seq2SeqLM | None" = None,
        reward_weights: "Sequence[float] | None" = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
        anchor_decay: float | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: method={shown(method)}")
        self.kl_weight = _number("kl_weight", kl_weight)
        if self.kl_weight < 0:
            raise ValueError(
                f"`kl_weight` must be at least 0. Received: kl_weight={shown(kl_weight)}"
            )
        if reference is not None and not hasattr(reference, "backbone"):
            raise TypeError(
                "`reference` must be a T5Gemma2Seq2SeqLM or `None`. Received: "
                f"reference={shown(reference)}"
            )
        self.anchor_decay = _decay(anchor_decay, reference)
        self.method, self.reference, self.seed = method, reference, counted("seed", seed, least=0)
        self.reward_weights = _weights(reward_weights)
        self.max_new_tokens = checked(max_new_tokens=max_new_tokens)

    def check(self, student: "T5Gemma2Seq2SeqLM", num_rewards: int) -> None:
        """Raises a `ValueError` if a model cannot learn so.

        Args:
            student: `T5Gemma2Seq2SeqLM`.
            num_rewards: int. How many reward functions there are.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> keras_t5gemma2.PolicyGradient().check(lm, num_rewards=1)
        """
        weights = self.reward_weights
        if weights is not None and len(weights) != num_rewards:
            raise ValueError(
                f"`reward_weights` must hold a number for each of {num_rewards} reward functions. "
                f"Received: reward_weights={shown(weights)}"
            )
        if self.reference is None:
            return
        if self.reference.backbone is student.backbone:
            raise ValueError(
                "`reference` must be another model than the one that learns. Received: one of the "
                "same backbone. Leave it out, and the model as it is now is the reference"
            )
        sizes = [lm.backbone.config.vocabulary_size for lm in (self.reference, student)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "`reference` must have the vocabulary of the model that learns. Received: "
                f"vocabulary_size={sizes[0]} of the reference, {sizes[1]} of the model"
            )


def check_no_rewards(**arguments):
    """Raises a `ValueError` for arguments of `fit` that go with `rewards` alone.

    Args:
        **arguments: values by name, `None` for those that were not given.
    """
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"`{name}` goes with `rewards`. Received: {name}={shown(value)}, and rewards=None"
            )


class Group(NamedTuple):
    """The samples of some rows, one row after another."""

    rewards: Any  # (rows, samples) floats
    log_probs: list  # per sample (T,) floats, of each of its tokens
    reference: list  # the same of the reference model; those of the model itself without one


class Step(NamedTuple):
    """What a step is made of."""

    weights: list  # per sample (T,) floats: what the cross-entropy of each token is times
    loss: float  # of the samples, as `PolicyGradient` has it
    advantages: Any  # (rows, samples) floats
    kl: float  # the mean of k over all tokens


def step_of(group, method, kl_weight):
    """The `Step` whose gradient is that of the loss of a `Group`.

    The gradient of a loss of log-probabilities is that of a sum of them, each times the slope of
    the loss by it: what is computed here for the samples needs no logits.

    Args:
        group: `Group`.
        method, kl_weight: as of `PolicyGradient`.
    """
    ratios = [np.asarray(q) - p for p, q in zip(group.log_probs, group.reference, strict=True)]
    ks = [np.expm1(ratio) - ratio for ratio in ratios]
    count, tokens = len(ratios), sum(map(len, ratios))
    rewards = np.asarray(group.rewards, "float64")
    if method == "rloo":
        # Each sample's log(p / q) belongs to its reward: it says what the sample was worth.
        apart = np.array([-ratio.sum() for ratio in ratios]).reshape(rewards.shape)
        advantages = left_out_rewards(rewards - kl_weight * apart)
        weights = [np.full(len(p), a / count) for p, a in _pairs(group, advantages)]
        values = [-a * np.sum(p) for p, a in _pairs(group, advantages)]
    else:
        advantages = (relative_rewards if method == "grpo" else best_alone)(rewards)
        slopes = [kl_weight * np.expm1(ratio) for ratio in ratios]
        pairs = zip(_pairs(group, advantages), slopes, strict=True)
        weights = [(a + slope) / (count * max(1, len(p))) for (p, a), slope in pairs]
        triples = zip(_pairs(group, advantages), ks, strict=True)
        values = [_mean(-a * np.asarray(p) + kl_weight * k) for (p, a), k in triples]
    kl = sum(float(k.sum()) for k in ks) / max(1, tokens)
    return Step(weights, float(np.mean(values)), advantages, kl)


def _pairs(group, advantages):
    return zip(group.log_probs, advantages.reshape(-1), strict=True)


def _mean(values):
    return float(np.mean(values)) if len(values) else 0.0


def _number(name, value):
    found = number(value)
    if found is None or not np.isfinite(found):
        raise TypeError(f"`{name}` must be a finite number. Received: {name}={shown(value)}")
    return float(found)


def _decay(value, reference):
    if value is None:
        return None
    decay = _number("anchor_decay", value)
    if not 0 <= decay < 1:
        raise ValueError(
            f"`anchor_decay` must be at least 0 and below 1. Received: anchor_decay={shown(value)}"
        )
    if reference is not None:
        raise ValueError(
            "`anchor_decay` is of the model as it was, and `reference` another one. Received: "
            "both. Leave one of them out"
        )
    return decay


def _weights(values):
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or not values:
        raise TypeError(
            "`reward_weights` must be a list of numbers, one for each reward function. Received: "
            f"reward_weights={shown(values)}"
        )
    return [_number("reward_weights", value) for value in values]
