"""What happens around the optimizer's part of a training step: LoRA+, and what `fit` adds."""

import contextlib

from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat import keras as compat


@contextlib.contextmanager
def steps_changed(optimizer, changes):
    """Inside, also while a step is traced, each `apply` of the optimizer goes with changes.

    Args:
        optimizer: a Keras optimizer, maybe one that scales the loss.
        changes: list of functions from the optimizer, gradients and variables to a function that
            is called after the variables have changed.
    """
    optimizer = inner_optimizer(optimizer)
    if not changes:
        yield
        return
    if (count := kernels.num_replicas()) > 1:
        raise ValueError(
            "`lora_plus` and `AdaptiveRank` need the gradients of a whole step in one place. "
            f"Received: a strategy of {count} replicas. Train on one device, or with JAX or torch."
        )
    apply = optimizer.apply

    def apply_and_change(gradients, trainable_variables=None):
        # With JAX there are gradients alone.
        known = compat.trained_variables(optimizer)
        gradients, variables = list(gradients), list(trainable_variables or known)
        afters = [change(optimizer, gradients, variables) for change in changes]
        apply(gradients, variables)
        for after in afters:
            after()

    with compat.applying_by(optimizer, apply_and_change):
        yield


def inner_optimizer(optimizer):
    """The optimizer, or the one inside of one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def state_of(optimizer, variable):
    """What an optimizer remembers of a variable, such as averages of its gradients."""
    start = f"{variable.path.replace('/', '_')}_"
    return [state for state in optimizer.variables if state.name.startswith(start)]


class LoraPlus:
    """Makes steps of some variables larger, whatever the optimizer is (LoRA+, arXiv 2402.12354).

    Args:
        variables: list, the B of adapters.
        ratio: float. How many times the optimizer's own step is taken.
    """

    def __init__(self, variables, ratio):
        self.variables, self.ratio = variables, ratio

    def __call__(self, optimizer, gradients, variables):
        if optimizer.use_ema:
            raise ValueError(
                "`lora_plus` cannot be used with an optimizer of `use_ema=True`, whose averages "
                "would not see the larger steps. Received: lora_plus="
                f"{self.ratio}. Compile with another optimizer, or leave `lora_plus` out."
            )
        before = [ops.copy(variable) for variable in self.variables]

        def after():
            for variable, old in zip(self.variables, before, strict=True):
                variable.assign(old + self.ratio * (ops.convert_to_tensor(variable) - old))

        return after
