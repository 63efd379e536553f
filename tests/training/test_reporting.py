"""What is reported while steps are compiled."""

import types

import keras
import pytest

from keras_t5gemma2 import compiling, kernels
from keras_t5gemma2.training import reporting

pytestmark = pytest.mark.once


@pytest.fixture
def told(monkeypatch):
    """What began and what ended, in order; and every step is one that is traced."""
    found = []
    monkeypatch.setattr(kernels, "is_traced", lambda data: True)
    monkeypatch.setattr(kernels, "check_process", lambda process: None)
    monkeypatch.setattr(compiling, "began_compiling", lambda what, sizes: found.append(what))
    monkeypatch.setattr(compiling, "ended_compiling", lambda what, since: found.append(f"{what}!"))
    return found


TASK = types.SimpleNamespace(made_in_process=None)


def test_a_step_is_reported_once_and_ends_with_its_batch(told):
    with reporting.reporting_steps(TASK, None, verbose=1) as callbacks:
        (ending,) = callbacks
        for _ in range(2):
            reporting.step_begins("a step", ({},))
        reporting.step_begins("another", ({},))
        assert told == ["a step", "another"]
        ending.on_train_batch_end(0)
        assert sorted(told[2:]) == ["a step!", "another!"]
        ending.on_test_batch_end(1)
        assert len(told) == 4


def test_outside_of_a_method_nothing_is_reported(told):
    reporting.step_begins("a step", ({},))
    assert told == []


def test_what_is_inside_of_another_is_reported_by_that(told):
    with reporting.reporting_steps(TASK, None, verbose=1) as outer:
        given = object()
        with reporting.reporting_steps(TASK, given, verbose=1) as inner:
            assert inner is given
        reporting.step_begins("a step", ({},))
    assert len(outer) == 1 and told == ["a step"]


def test_callbacks_of_the_user_s_own_stay_in_front(told):
    own = keras.callbacks.Callback()
    for given in (own, [own], (own,), keras.callbacks.CallbackList([own])):
        with reporting.reporting_steps(TASK, given, verbose=0) as callbacks:
            found = getattr(callbacks, "callbacks", callbacks)
            assert found[0] is own and len(found) == 2
