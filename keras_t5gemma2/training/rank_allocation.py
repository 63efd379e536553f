"""Which triplets of adapters are kept, from how much each matters: AdaLoRA (arXiv 2303.10512)."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.compat import keras as compat

_TINY = 1e-20  # of a square, whose root has no gradient at 0


@dataclasses.dataclass(frozen=True)
class RankSchedule:
    """How many triplets are kept after each step.

    Args:
        first: int. Triplets at the start, of all layers together.
        last: int. Triplets in the end.
        warmup: int. Steps in which all are kept.
        final: int. Steps in the end in which the same ones are kept.
        every: int. Between these, how many steps lie between two choices.
        total: int. Steps.
    """

    first: int
    last: int
    warmup: int
    final: int
    every: int
    total: int

    def budget(self, step):
        """How many triplets may be kept after a step, counted from 1: a cubic decline."""
        if step <= self.warmup:
            return self.first
        if step > self.total - self.final:
            return self.last
        share = 1 - (step - self.warmup) / (self.total - self.final - self.warmup)
        return int((self.first - self.last) * share**3 + self.last)

    def chooses(self, step):
        """Whether it is chosen anew after this step, which ones are kept."""
        end = self.total - self.final
        return step == end or (self.warmup < step < end and step % self.every == 0)


class RankAllocator:
    """Chooses the triplets that matter most, after each step of an optimizer.

    How much an entry p of A, E or B matters is |p * gradient|, of the new p and the gradient of the
    step; its moving average times that of its spread is the score. A triplet's is the score of its
    E plus the means over its column of A and its row of B. What is not kept has E = 0; until the
    last choice it can grow again.

    Its state is the optimizer's, so that whatever saves the one saves the other.

    Args:
        adapters: dict of `Adapter` with E by the paths of their layers.
        schedule: `RankSchedule`.
        betas: pair of floats, how much of the averages of sizes and of spreads stays in a step.
    """

    def __init__(self, adapters, schedule, betas):
        self.adapters, self.schedule, self.betas = adapters, schedule, betas
        self.optimizer = None
        steps = range(schedule.total + 1)
        self._budgets = np.array([schedule.budget(step) for step in steps], "int32")
        self._chooses = np.array([schedule.chooses(step) for step in steps])

    def build(self, optimizer):
        """Makes the variables, of a built optimizer."""

        def add(name, shape, **kwargs):
            name = f"{name}_of_{path.replace('/', '_')}" if path else name
            return optimizer.add_variable(shape, name=name, **kwargs)

        self.optimizer, path = optimizer, ""
        self.step = add("rank_step", (), dtype="int32")
        self.sizes, self.spreads, self.masks = {}, {}, {}
        for path, adapter in self.adapters.items():
            parts = {k: v.shape for k, v in adapter.trained.items()}
            self.sizes[path], self.spreads[path] = (
                {part: add(f"{kind}_{part}", shape) for part, shape in parts.items()}
                for kind in ("size", "spread")
            )
            self.masks[path] = add("mask", adapter.e.shape, initializer="ones")

    def forget(self):
        """Takes the variables out of the optimizer, and keeps what they are."""
        own = [self.step, *self.masks.values()]
        own += [v for of in (self.sizes, self.spreads) for x in of.values() for v in x.values()]
        compat.forget_optimizer_variables(self.optimizer, own)
        self.optimizer = None

    def __call__(self, optimizer, gradients, variables):
        """See `optimizer_steps.steps_changed`."""
        gradients, is_step = compat.accumulated_gradients(optimizer, gradients, variables)
        by_variable = {id(v): g for v, g in zip(variables, gradients, strict=True)}
        return lambda: self._update(by_variable, is_step)

    def _update(self, gradients, is_step):
        schedule, step = self.schedule, self.step + ops.cast(is_step, "int32")
        place = ops.minimum(step, schedule.total)
        learns = ops.logical_and(is_step, step < schedule.total - schedule.final)
        scores = {path: self._scores(path, gradients, learns) for path in self.adapters}
        count = ops.take(ops.convert_to_tensor(self._budgets), place)
        chooses = ops.take(ops.convert_to_tensor(self._chooses), place)
        chooses = ops.logical_and(ops.logical_and(is_step, chooses), step <= schedule.total)
        every = ops.sort(ops.concatenate(list(scores.values())))
        lowest = ops.take(every, ops.maximum(schedule.first - count - 1, 0))
        lowest = ops.where(count < schedule.first, lowest, -1.0)
        masks = ops.logical_or(chooses, step > schedule.total - schedule.final)
        for path, adapter in self.adapters.items():
            mask = self.masks[path]
            kept = ops.cast(scores[path] > lowest, "float32")
            mask.assign(ops.where(chooses, kept, ops.convert_to_tensor(mask)))
            e = ops.convert_to_tensor(adapter.e)
            adapter.e.assign(ops.where(masks, e * ops.convert_to_tensor(mask), e))
        self.step.assign(step)

    def _scores(self, path, gradients, learns):
        """(rank,) scores of the triplets of a layer, after their averages have been updated."""
        total = 0.0
        for part, variable in self.adapters[path].trained.items():
            p, gradient = ops.convert_to_tensor(variable), gradients.get(id(variable))
            found = ops.zeros_like(p) if gradient is None else ops.abs(p * gradient)
            old = [ops.convert_to_tensor(of[path][part]) for of in (self.sizes, self.spreads)]
            size = self.betas[0] * old[0] + (1 - self.betas[0]) * found
            spread = self.betas[1] * old[1] + (1 - self.betas[1]) * ops.abs(found - size)
            size, spread = ops.where(learns, size, old[0]), ops.where(learns, spread, old[1])
            self.sizes[path][part].assign(size)
            self.spreads[path][part].assign(spread)
            score = size * spread
            axis = {"lora_a": 0, "lora_b": 1}.get(part)
            total = total + (score if axis is None else ops.mean(score, axis=axis))
        return total


class KeepMasked:
    """Keeps what is 0 in some variables at 0, after each step of an optimizer.

    Args:
        variables: list.
    """

    def __init__(self, variables):
        self.variables = variables
        self.masks = [np.asarray(ops.convert_to_numpy(v) != 0, "float32") for v in variables]

    def __call__(self, optimizer, gradients, variables):
        def after():
            for variable, mask in zip(self.variables, self.masks, strict=True):
                variable.assign(ops.convert_to_tensor(variable) * ops.convert_to_tensor(mask))

        return after


class Orthogonality(keras.regularizers.Regularizer):
    """How far the columns of A, or the rows of B, are from being of length 1 and orthogonal.

    Args:
        weight: float.
        of_columns: bool.
    """

    def __init__(self, weight, of_columns):
        self.weight, self.of_columns = weight, of_columns

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        x = ops.transpose(x) if self.of_columns else x
        off = ops.matmul(x, ops.transpose(x)) - ops.eye(x.shape[0], dtype=x.dtype)
        return self.weight * ops.sqrt(ops.maximum(ops.sum(ops.square(off)), _TINY))

    def get_config(self):
        return {"weight": self.weight, "of_columns": self.of_columns}
