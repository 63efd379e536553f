"""What a model is held to while it learns: another one, or itself as it was."""

import contextlib

from keras import ops

from keras_t5gemma2.training.samples import log_probs_of


def reference_of(policy, task):
    """A function from `Samples` to the reference's log-probabilities of their tokens.

    Args:
        policy: `PolicyGradient`.
        task: `T5Gemma2Seq2SeqLM` that learns.
    """
    if policy.kl_weight == 0:
        return lambda samples: samples.log_probs
    if policy.reference is not None:
        return lambda samples: log_probs_of(policy.reference, samples)
    return _Copy(task, policy.anchor_decay)


class _Copy:
    """The task itself as it was, or an average of what it was."""

    def __init__(self, task, decay):
        self.task, self.decay = task, decay
        self.variables = list(task.trainable_variables)
        self.begin()

    def begin(self):
        """Takes the task as it is now."""
        self.values = _copies(self.variables)
        if self.decay is not None:  # in bfloat16 small steps of an average would be lost
            self.values = [ops.cast(value, "float32") for value in self.values]

    def __call__(self, samples):
        decay = self.decay
        if decay is not None:
            now = [ops.cast(ops.stop_gradient(v.value), "float32") for v in self.variables]
            pairs = zip(self.values, now, strict=True)
            self.values[:] = [decay * old + (1.0 - decay) * new for old, new in pairs]
        with _values(self.variables, self.values):
            return log_probs_of(self.task, samples)


@contextlib.contextmanager
def _values(variables, values):
    """Inside, variables have other values, of which nothing may change a number."""
    before = _copies(variables)
    try:
        _assign(variables, values)
        yield
    finally:
        _assign(variables, before)


def _copies(variables):
    return [ops.copy(ops.stop_gradient(variable.value)) for variable in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
