"""Tickets of a request; what comes of them is in tests/serving/test_app.py."""

import pytest
from tasks import ONE_LAYER, small_task

from keras_t5gemma2.serving import asked
from keras_t5gemma2.serving.engine import Engine
from keras_t5gemma2.serving.errors import RequestError
from keras_t5gemma2.serving.limits import Limits
from keras_t5gemma2.serving.writing import Writing, of_engine, too_late

pytestmark = pytest.mark.once


def writing_of(body):
    lm = small_task(ONE_LAYER)
    return Writing(lm, asked.completion_of(body, Limits()), asked.COMPLETION, "prompt")


def test_a_ticket_for_each_text_and_all_are_cancelled():
    writing = writing_of({"prompt": ["the cat", "a dog"], "n": 2, "temperature": 1, "seed": 4})
    writing.prepare()
    assert len(writing.tickets) == len(writing.texts) == 4 and writing.count == 2
    assert len({tuple(ticket.draws) for ticket in writing.tickets}) == 4
    writing.cancel()
    assert all(ticket.is_cancelled for ticket in writing.tickets)


def test_errors_have_a_status():
    writing = writing_of({"prompt": "the cat " * 20})
    with pytest.raises(RequestError) as caught:
        writing.prepare()
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    engine = Engine(small_task(ONE_LAYER))
    engine.close()
    with pytest.raises(RequestError) as caught, of_engine():
        engine.submit([])
    assert (caught.value.status, too_late().status) == (503, 504)
