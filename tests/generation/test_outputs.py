"""New tokens as what `generate` returns, and what is said of those that go on."""

import warnings

import numpy as np
import pytest
from tasks import TOKENIZER, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import batching, outputs
from keras_t5gemma2.generation.sequences import Sequence
from keras_t5gemma2.generation.settings import Settings

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    return small_task()


@pytest.fixture(scope="module")
def bare(lm):
    return T5Gemma2Seq2SeqLM(lm.backbone)


def row(prompt, budget, *drawn):
    sequences = [Sequence(np.array(new, "int32"), new[-1] == 1) for new in drawn]
    return np.array(prompt, "int32"), budget, sequences


def test_arrays_have_room_for_the_longest_row(bare):
    rows = [row([2, 5], 3, [7, 1]), row([2], 1, [8])]
    found = outputs.finished(bare, rows, False, False, Settings())
    assert found["decoder_token_ids"].tolist() == [[2, 5, 7, 1, 0], [2, 8, 0, 0, 0]]
    assert found["decoder_padding_mask"].sum(axis=1).tolist() == [4, 2]
    stripped = outputs.finished(bare, rows, True, False, Settings())
    assert stripped["decoder_token_ids"].tolist() == [[7, 1, 0, 0, 0], [8, 0, 0, 0, 0]]


def test_one_row_alone_has_no_axis_unless_several_were_drawn(bare):
    found = outputs.finished(bare, [row([2], 2, [7])], False, True, Settings())
    assert found["decoder_token_ids"].tolist() == [2, 7, 0]
    found = outputs.finished(bare, [row([2], 2, [7], [8])], False, True, Settings())
    assert found["decoder_token_ids"].tolist() == [[2, 7, 0], [2, 8, 0]]


def test_text_is_that_of_all_or_of_the_new_tokens(lm):
    prompt, new = [2, *TOKENIZER("a dog")], [*TOKENIZER(" is"), TOKENIZER.end_token_id]
    rows = [row(prompt, 9, new)]
    assert outputs.finished(lm, rows, False, True, Settings()) == "a dog is"
    assert outputs.finished(lm, rows, True, False, Settings()) == [" is"]
    assert outputs.finished(lm, [row(prompt, 9, new, new[:1])], True, True, Settings()) == [
        " is",
        " is",
    ]


def test_rows_that_nobody_limited_are_reported_where_they_go_on(lm, bare):
    most = batching.NEW_TOKENS
    ended, going, short = [7] * (most - 1) + [1], [7] * most, [7, 7]
    with pytest.warns(UserWarning, match=str(most)) as found:
        outputs.report_unfinished(lm, [row([2], most, ended, going)], (None, None))
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs.report_unfinished(lm, [row([2], most, ended, short)], (None, None))
        outputs.report_unfinished(lm, [row([2], most, going)], (None, most))
        outputs.report_unfinished(bare, [row([2], most, going)], (None, None))
