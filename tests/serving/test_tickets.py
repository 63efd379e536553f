"""What a ticket holds, and what makes none."""

import numpy as np
import pytest
from tasks import ONE_LAYER, small_task

from keras_t5gemma2 import constraints
from keras_t5gemma2.serving.tickets import TooLongError, encoded_rows, tickets_of

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    return small_task(ONE_LAYER)


def test_what_is_left_out_is_as_in_generate(lm):
    (ticket,) = tickets_of(lm, "the cat")
    assert ticket.numbers["temperature"] == 0 and ticket.budget == 8  # 9 with the start token
    assert ticket.stops == (lm.preprocessor.tokenizer.end_token_id,)
    assert ticket.rules == () and ticket.constraint is None


def test_draws_are_those_of_a_row_and_a_sequence(lm):
    settings = {"temperature": 1.0, "seed": 3, "max_new_tokens": 4}
    first = tickets_of(lm, "the cat", 0, 2, **settings)
    other = tickets_of(lm, "the cat", 1, 2, **settings)
    draws = [ticket.draws.tolist() for ticket in (*first, *other)]
    assert len({tuple(values) for values in draws}) == 4
    again = tickets_of(lm, "a dog", 0, 2, **settings)
    assert [ticket.draws.tolist() for ticket in again] == draws[:2]


def test_equal_inputs_have_equal_keys(lm):
    keys = [tickets_of(lm, text)[0].key for text in ("the cat", "the cat", "a dog")]
    assert keys[0] == keys[1] != keys[2]
    several = tickets_of(lm, "the cat", count=3, temperature=1.0)
    assert all(ticket.key is several[0].key for ticket in several)  # made once for all of them
    options = constraints.choice(["a", "the"])
    first, other = (tickets_of(lm, "a dog", constraint=options)[0] for _ in range(2))
    assert first.constraint_key == other.constraint_key is not None


def test_nothing_is_cut(lm):
    with pytest.raises(TooLongError, match="at most 11 tokens. Received: "):
        tickets_of(lm, "the cat " * 9)


def test_what_generate_refuses(lm):
    with pytest.raises(ValueError, match="`top_p` must be a number above 0"):
        tickets_of(lm, "the cat", top_p=0)
    with pytest.raises(ValueError, match="`num_return_sequences` above 1 needs a sampler"):
        tickets_of(lm, "the cat", count=2, temperature=0)
    with pytest.raises(TypeError, match="num_beams"):
        tickets_of(lm, "the cat", num_beams=2)


def test_rows_are_filled_up(lm):
    tickets = [tickets_of(lm, text)[0] for text in ("the cat", "a red bee")]
    rows = encoded_rows(tickets, 4)
    assert [len(ids) for ids in rows.encoder_ids] == [
        len(tickets[i].rows.encoder_ids[0]) for i in (0, 1, 1, 1)
    ]
    np.testing.assert_array_equal(rows.prompts[3], tickets[1].prompt)
