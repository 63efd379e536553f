"""From rows to a training step that makes the better of a model's own samples likelier."""

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer
from keras_t5gemma2.training.policy_gradient import Group, PolicyGradient, step_of
from keras_t5gemma2.training.reference_model import reference_of
from keras_t5gemma2.training.rewards import checked_functions, names_of, rewards_of
from keras_t5gemma2.training.samples import arrays_of, at_labels, draw


class PolicyLesson:
    """What a step learns of its rows, by rewards.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        rewards: functions as `fit` takes them.
        num_samples: int or `None`. Samples of each row.
        policy: `PolicyGradient`, or `None` for the default one.

    Raises:
        ValueError, TypeError: an argument is not as it should be.
    """

    def __init__(self, task, rewards, num_samples, policy):
        policy = PolicyGradient() if policy is None else policy
        if not isinstance(policy, PolicyGradient):
            raise TypeError(
                f"`policy` must be a PolicyGradient or `None`. Received: policy={shown(policy)}"
            )
        self.functions = checked_functions(rewards)
        self.count = checked_samples(num_samples)
        policy.check(task, len(self.functions))
        self.task, self.policy = task, policy
        self.reference = reference_of(policy, task)
        self.keeps_an_average = policy.anchor_decay is not None

    def begin_average(self):
        """Takes what the task is held to from the task as it is now."""
        if self.policy.kl_weight:  # without, it is held to nothing
            self.reference.begin()

    def __call__(self, rows, epoch):
        """The batch of a step, (x, y), and a dict of numbers.

        Args:
            rows: list of `Row`.
            epoch: int.
        """
        policy = self.policy
        samples = draw(self.task, rows, self.count, policy.max_new_tokens, (policy.seed, epoch))
        found = rewards_of(self.functions, samples.inputs, samples.texts)
        weights = [1.0] * len(found) if policy.reward_weights is None else policy.reward_weights
        rewards = (np.array(weights) @ found).reshape(len(rows), self.count)
        group = Group(rewards, samples.log_probs, self.reference(samples))
        step = step_of(group, policy.method, policy.kl_weight)
        x = arrays_of(samples)
        labels = x.pop("labels")
        y = {"labels": np.maximum(labels, 0), "slopes": at_labels(labels, step.weights)}
        deviation = rewards.std(axis=1).mean()
        logs = {"loss": step.loss, "reward": rewards.mean(), "reward_std": deviation}
        if policy.kl_weight:
            logs["kl"] = step.kl
        if len(found) > 1:
            names = names_of(self.functions)
            logs |= {f"reward_{n}": of.mean() for n, of in zip(names, found, strict=True)}
        return x, y, {**logs, **samples.numbers()}


def checked_samples(num_samples):
    """How many samples of a row are compared, 8 by default.

    Raises:
        TypeError, ValueError: it is no integer of at least 2.
    """
    count = 8 if num_samples is None else integer(num_samples)
    if count is None:
        raise TypeError(
            f"`num_samples` must be an integer. Received: num_samples={shown(num_samples)}"
        )
    if count < 2:
        raise ValueError(
            "`num_samples` must be at least 2, since the samples of a row are compared with each "
            f"other. Received: num_samples={count}"
        )
    return count
