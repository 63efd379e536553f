"""On JAX: weights, optimizer and metrics stay in a model whatever happens while Keras trains it.

Keras's trainer on JAX takes the values out of a model's variables for an epoch, and donates them
to each step. In Keras 3.15 whatever is raised in `evaluate` or `predict`, or before the first step
of `fit` has ended, leaves the variables empty for good; and whoever reads a variable in the middle
of an epoch, other than through `callback.model`, fails.

A model that a user puts on top of a backbone is a plain `keras.Model`, so there is no class of
ours to mend: the trainer itself is mended, once, when the first backbone is made. The private
names of Keras that this needs are used here and nowhere else.
"""

import contextlib
import functools
import signal
import threading
import weakref

import keras

_RUNS = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")
_KINDS = (
    *("trainable_variables", "non_trainable_variables"),
    *("optimizer_variables", "metrics_variables"),
)
_KINDS_OF_STATE = {2: _KINDS[:2], 3: (*_KINDS[:2], _KINDS[3]), 4: _KINDS}
_LOST = (
    "The weights were lost: a step failed while it had them, when memory ran out for example. "
    "Load them again, from a checkpoint or with `from_preset`"
)


def keep_state():
    """Has Keras's trainer, where it is the one of JAX, give back what it takes out of a model."""
    trainer = _trainer_of_jax()
    if trainer is None or getattr(trainer, "_keeps_state", False):
        return
    for name in _RUNS:
        setattr(trainer, name, _given_back_after(getattr(trainer, name)))
    trainer._purge_model_variables = _recorded_when_taken(trainer._purge_model_variables)
    trainer._make_function = _recorded_at_every_step(trainer._make_function)
    trainer._keeps_state = True


def _trainer_of_jax():
    return next((c for c in keras.Model.__mro__ if "jax_state_sync" in vars(c)), None)


def _given_back_after(run):
    """`fit` or the like, which begins and fails with the last known values in the variables."""

    @functools.wraps(run)
    def wrapped(model, *args, **kwargs):
        model.jax_state_sync()  # it may be called in the middle of another run, by a callback
        model._jax_state = None  # of an earlier `train_on_batch`, which does not clear it
        try:
            return run(model, *args, **kwargs)
        except BaseException as error:
            _give_back(model, error)
            raise

    return wrapped


def _give_back(model, error):
    with _interrupts_held(lambda: True):
        if _is_donated(model._jax_state):
            error.add_note(_LOST)
        else:
            model.jax_state_sync()
            model._jax_state = None
        model._jax_state_synced = True


def _recorded_when_taken(purge):
    """`_purge_model_variables`, after which the values are still known, also to the variables.

    Keras asks the initializer of a variable that has no value when it is read.
    """

    @functools.wraps(purge)
    def wrapped(model, **kinds):
        taken = {kind: _variables(model, kind) for kind in _KINDS if kinds.get(kind)}
        _record(model, {kind: [v.value for v in variables] for kind, variables in taken.items()})
        reference = weakref.ref(model)
        for variable in keras.tree.flatten(list(taken.values())):
            variable._initializer = functools.partial(_value_in_a_run, reference, variable)
        purge(model, **kinds)

    return wrapped


def _variables(model, kind):
    return model.optimizer.variables if kind == _KINDS[2] else getattr(model, kind)


def _value_in_a_run(reference, variable, shape, dtype):
    model = reference()
    if model is not None and not _is_donated(model._jax_state):
        model._jax_state_synced = False
        model.jax_state_sync()
    if variable._value is None:
        raise RuntimeError(_LOST)
    return variable._value


def _recorded_at_every_step(make_function):
    """`_make_function`, of steps whose result is recorded, so that no interrupt can lose it."""

    @functools.wraps(make_function)
    def wrapped(model, step, *args, **kwargs):
        def recorded(state, data):
            _record(model, dict(zip(_KINDS_OF_STATE[len(state)], state, strict=True)))
            with _interrupts_held(lambda: _is_donated(state)):
                outputs, state = step(state, data)
                _record(model, dict(zip(_KINDS_OF_STATE[len(state)], state, strict=True)))
            return outputs, state

        return make_function(model, recorded, *args, **kwargs)

    return wrapped


def _record(model, state):
    """Where `jax_state_sync` finds it: lists of values by kind."""
    model._jax_state, model._jax_state_synced = state, False


def _is_donated(state):
    return any(
        array.is_deleted() for array in keras.tree.flatten(state) if hasattr(array, "is_deleted")
    )


@contextlib.contextmanager
def _interrupts_held(is_held):
    """Inside, Ctrl-C waits for the end where `is_held()`, and else interrupts at once.

    Args:
        is_held: function without arguments.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held = []

    def hold(number, frame):
        if is_held():
            held.append((number, frame))
        else:
            handler(number, frame)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for number, frame in held[:1]:
            handler(number, frame)
