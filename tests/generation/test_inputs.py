"""What `generate` is given as batches of rows, and how many tokens each row may get."""

import numpy as np
import pytest
from tasks import SMALL_ROWS, TOKENIZER, small_task
from tiny_models import token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import batching, inputs

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    return small_task()


@pytest.fixture(scope="module")
def bare(lm):
    """Without a preprocessor: it takes arrays."""
    return T5Gemma2Seq2SeqLM(lm.backbone)


def prompts(*lengths):
    return batching.rows_of_prompts([np.ones(length, "int32") for length in lengths])


def test_rows_are_read_and_arrays_stay_arrays(lm, bare, rng):
    rows, is_single = inputs.read(lm, SMALL_ROWS, None)
    assert [row.encoder_text for row in rows] == SMALL_ROWS["encoder_text"] and not is_single
    assert inputs.read(lm, "the cat", None)[1]
    renamed, _ = inputs.read(lm, {"question": ["a"]}, {"question": "encoder_text"})
    assert renamed[0].encoder_text == "a"
    arrays = token_inputs(rng, (3,), (2,))
    assert inputs.read(bare, arrays, None) == (arrays, False)
    assert inputs.read(lm, None, None) == (None, False)


def test_batches_are_of_rows_of_similar_length(lm, bare, rng):
    rows, _ = inputs.read(lm, ["the cat is in the garden", "a", "the dog"], None)
    batches, is_single = inputs.batches_of(lm, rows, False, None, 2, 1)
    assert [list(indices) for indices, _ in batches] == [[1, 2], [0, 0]] and not is_single
    assert [row.encoder_text for row in batches[0][1]] == ["a", "the dog"]
    arrays = token_inputs(rng, (9, 2, 5), (2, 2, 2))
    batches, _ = inputs.batches_of(bare, arrays, False, None, 2, 1)
    assert [list(indices) for indices, _ in batches] == [[1, 2], [0, 0]]
    np.testing.assert_array_equal(
        batches[0][1]["encoder_token_ids"], arrays["encoder_token_ids"][[1, 2]]
    )
    ((indices, all_of_them),), _ = inputs.batches_of(bare, arrays, False, None, None, 1)
    assert list(indices) == [0, 1, 2] and len(all_of_them["encoder_token_ids"]) == 3


def test_one_row_of_arrays_has_no_axis(bare, rng):
    row = {name: array[0] for name, array in token_inputs(rng, (3,), (2,)).items()}
    ((_, arrays),), is_single = inputs.batches_of(bare, row, False, None, None, 1)
    assert is_single and arrays["encoder_token_ids"].shape == (1, 3)
    with pytest.raises(ValueError, match="Without a preprocessor the inputs must be arrays"):
        inputs.batches_of(bare, ["the cat"], False, None, None, 1)


def test_what_is_encoded_needs_prompts_or_a_start_token(lm, bare):
    ((_, rows),), _ = inputs.batches_of(lm, None, False, [1, 2, 3], None, 1)
    assert [row.number for row in rows] == [0, 1, 2]
    assert [prompt.tolist() for prompt in inputs.rows_of(lm, rows, [1, 2, 3])[0].prompts] == [
        [2]
    ] * 3
    for model, encoded in ((bare, [1]), (lm, None)):
        with pytest.raises(ValueError, match="inputs=None"):
            inputs.batches_of(model, None, False, encoded, None, 1)


def test_budgets_are_what_the_smaller_limit_leaves(lm, bare):
    rows = prompts(1, 4)
    assert inputs.budgets(lm, None, rows, None, 7) == [7, 7]
    assert inputs.budgets(lm, None, rows, 10, None) == [9, 6]
    assert inputs.budgets(lm, None, rows, 10, 8) == [8, 6]
    assert inputs.budgets(lm, None, rows, None, None) == [8, 5]  # the preprocessor has 9
    given = {"decoder_token_ids": np.zeros((2, 6))}
    assert inputs.budgets(bare, given, rows, None, None) == [5, 2]


def test_rows_without_a_prompt_or_room_are_named(lm):
    with pytest.raises(ValueError, match="an empty prompt in row 1"):
        inputs.budgets(lm, None, prompts(1, 0), None, 7)
    with pytest.raises(ValueError, match="max_length=4.*in row 1 a decoder prompt of 4 tokens"):
        inputs.budgets(lm, None, prompts(1, 4), 4, None)


def test_stop_tokens_are_the_tokenizer_s_or_those_given(lm, bare):
    assert inputs.stop_token_ids(lm, "auto") == (TOKENIZER.end_token_id,)
    assert inputs.stop_token_ids(lm, [3, 4]) == (3, 4)
    assert inputs.stop_token_ids(lm, None) is None
    assert inputs.stop_token_ids(bare, [3]) == (3,)
    with pytest.raises(ValueError, match="its tokenizer knows the end token"):
        inputs.stop_token_ids(bare, "auto")
    with pytest.raises(ValueError, match="stop_token_ids"):
        inputs.stop_token_ids(lm, [10**6])


def test_a_later_batch_is_checked_before_the_first_is_generated(lm):
    rows, _ = inputs.read(lm, {"decoder_text": ["a", "a dog and a cat in the house " * 3]}, None)
    batches = [([0], rows[:1]), ([1], rows[1:])]
    inputs.check_all(lm, batches, (None, 5))
    with pytest.raises(ValueError, match="room for at least one new token"):
        inputs.check_all(lm, batches, (None, None))
