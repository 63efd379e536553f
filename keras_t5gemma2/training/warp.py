"""A callback of `fit` by rewards that trains several policies, and goes on from their average."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.merging import linear, slerp
from keras_t5gemma2.options import counted, number


class WARP(keras.callbacks.Callback):
    """Trains policies from one start, joins them, and begins again nearer to what was joined.

    For `fit(rewards=..., policy=PolicyGradient(anchor_decay=0.99))`. A round is `policies` times
    `every` steps. Each policy begins with the weights of the round's start and the optimizer's
    state of the start of `fit`, is held to its own moving average, and sees the next rows, with
    samples of their own. Then all of them become one: of each weight what they have learned since
    is joined by `slerp`, as `merge_models` has it, and the next round starts a part of the way from
    the old start to that.
    (Ramé et al. 2024, arXiv 2406.16768, whose values are the defaults.)

    After `fit` the model is what the next round would start from. A round that is cut short is
    joined as far as it came. While a round lasts, the model, also that of other callbacks and of
    validation, is one of its policies. A and B of adapters are joined each by itself. Two copies
    of what is trained and one of the optimizer's state are kept in the memory of the host.

    Args:
        every: int. Steps of each policy.
        policies: int, at least 2. How many are trained in a round.
        share: float, above 0 and at most 1. How far the next start lies from the old one towards
            the joined policies. Less keeps more of the start, and more of the reward comes with
            more.

    Attributes:
        rounds: int. How many rounds of the last `fit` were joined.

    Raises:
        ValueError, TypeError: an argument is not as it should be.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> def brief(inputs, outputs):
    ...     return [float(len(output) <= 4) for output in outputs]
    >>> policy = keras_t5gemma2.PolicyGradient(anchor_decay=0.99, max_new_tokens=4)
    >>> warp = keras_t5gemma2.WARP(every=1, policies=2)
    >>> options = dict(num_samples=4, policy=policy, epochs=2, verbose=0)
    >>> history = lm.fit(["Say 37!"], rewards=[brief], callbacks=[warp], **options)
    >>> warp.rounds
    1
    """

    def __init__(self, every: int, policies: int = 2, share: float = 0.3) -> None:
        super().__init__()
        self.every = counted("every", every)
        self.policies = counted("policies", policies, least=2)
        found = number(share)
        if found is None or not 0 < found <= 1:
            raise ValueError(
                f"`share` must be a number above 0 and at most 1. Received: share={shown(share)}"
            )
        self.share, self.rounds = float(found), 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        lesson = self.params.get("lesson")
        if lesson is None:
            raise ValueError(
                "`WARP` must be among the callbacks of `fit` with `rewards`. Received: another way "
                "to train. `merge_models` joins models that were trained otherwise"
            )
        if not lesson.keeps_an_average:
            raise ValueError(
                "`WARP` holds each policy to its own moving average. Received: a `fit` without "
                "one. Give `rewards` and `policy=PolicyGradient(anchor_decay=0.99)`"
            )
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._lesson, self._variables = lesson, list(self.model.trainable_variables)
        self._start, self._state = _values(self._variables), _values(optimizer.variables)
        self._joined, self._count, self._steps, self.rounds = None, 0, 0, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._steps += 1
        if self._steps == self.every:
            self._end_policy()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._steps:
            self._end_policy()
        if self._count:
            self._end_round()
        self._lesson = self._joined = self._start = self._state = None

    def _end_policy(self):
        """Joins the policy to those before it, which have as many times its share."""
        values = _values(self._variables)
        if self._count:
            shares = [self._count / (self._count + 1), 1 / (self._count + 1)]
            triples = zip(self._joined, values, self._start, strict=True)
            values = [_of(slerp, [one, two], shares, start) for one, two, start in triples]
        self._joined, self._steps = values, 0
        self._count += 1
        if self._count == self.policies:
            self._end_round()
        else:
            self._begin()

    def _end_round(self):
        shares = [1 - self.share, self.share]
        pairs = zip(self._start, self._joined, strict=True)
        self._start = [_of(linear, pair, shares, None) for pair in pairs]
        self._joined, self._count, self._steps = None, 0, 0
        self.rounds += 1
        self._begin()

    def _begin(self):
        """The next policy: the start's weights, the optimizer as it was, and an average of one."""
        _assign(self._variables, self._start)
        _assign(self.model.optimizer.variables, self._state)
        self._lesson.begin_average()


def _of(function, values, shares, base):
    """Float32 of what a function of `model.merging` makes of a weight in float64."""
    wide = [np.asarray(value, "float64") for value in values]
    base = None if base is None else np.asarray(base, "float64")
    return function(wide, shares, base).astype("float32")


def _values(variables):
    """Copies of variables, floats in float32 and counts as they are."""
    found = []
    for variable in variables:
        value = ops.convert_to_tensor(variable)
        if keras.backend.is_float_dtype(variable.dtype):
            value = ops.cast(value, "float32")
        found.append(np.array(ops.convert_to_numpy(ops.stop_gradient(value))))
    return found


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
