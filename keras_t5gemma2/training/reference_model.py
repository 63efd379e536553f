"""What a model is held to while it learns: another one, or itself as it was."""

import contextlib

from keras import ops

from keras_t5gemma2.generation.samples import log_probs_of


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
    variables = list(task.trainable_variables)
    values = _copies(variables)
    if policy.anchor_decay is not None:  # in bfloat16 small steps of an average would be lost
        values = [ops.cast(value, "float32") for value in values]

    def of_copy(samples):
        decay = policy.anchor_decay
        if decay is not None:
            now = [ops.cast(ops.stop_gradient(v.value), "float32") for v in variables]
            pairs = zip(values, now, strict=True)
            values[:] = [decay * old + (1.0 - decay) * new for old, new in pairs]
        with _values(variables, values):
            return log_probs_of(task, samples)

    return of_copy


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
