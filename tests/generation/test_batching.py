"""The host's side of generation: rows of ids to padded arrays, and back."""

import types

import numpy as np
import pytest

from keras_t5gemma2.generation import batching
from keras_t5gemma2.generation.finite import NOT_FINITE

pytestmark = pytest.mark.once


def ids(*numbers):
    return np.array(numbers, "int32")


ARRAYS = {
    "encoder_token_ids": np.array([[1, 2, 0], [0, 3, 4]]),
    "encoder_padding_mask": np.array([[1, 1, 0], [0, 1, 1]]),
    "decoder_token_ids": np.array([[5, 6], [0, 7]]),
    "decoder_padding_mask": np.array([[1, 1], [0, 1]]),
}


def test_rows_of_arrays_keep_the_encoder_s_padding_and_drop_the_prompt_s():
    images = {"images": np.zeros((2, 1, 4, 4, 3)), "image_features": np.zeros((2, 0, 4, 8))}
    rows = batching.rows_of_arrays({**ARRAYS, **images})
    assert [row.tolist() for row in rows.encoder_ids] == [[1, 2, 0], [0, 3, 4]]
    assert [mask.tolist() for mask in rows.encoder_masks] == [[1, 1, 0], [0, 1, 1]]
    assert [prompt.tolist() for prompt in rows.prompts] == [[5, 6], [7]]
    assert set(rows.seen) == {"images"}
    alone = batching.row_of(rows, 1)
    assert alone.prompts[0].tolist() == [7] and alone.seen["images"].shape == (1, 1, 4, 4, 3)


def test_rows_of_what_was_encoded_are_all_tokens():
    encoded = types.SimpleNamespace(
        encoder_ids=[ids(1, 2), ids()],
        decoder_ids=[ids(2), ids(2)],
        images=[np.ones((1, 2, 2, 3)), np.ones((0, 2, 2, 3))],
        image_features=None,
    )
    rows = batching.rows_of_encoded(encoded)
    assert [mask.tolist() for mask in rows.encoder_masks] == [[True, True], []]
    assert set(rows.seen) == {"images"} and rows.seen["images"].shape == (2, 1, 2, 2, 3)
    assert batching.rows_of_prompts([ids(2)]) == batching.Rows([], [], [ids(2)], {})


@pytest.mark.parametrize(
    ("count", "batch_size", "parts"), [(1, 8, 4), (7, 3, 1), (7, 3, 2), (5, 100, 1), (70, 2, 1)]
)
def test_every_row_is_in_a_batch_and_batches_are_of_one_size(rng, count, batch_size, parts):
    lengths = rng.integers(0, 100, count).tolist()
    batches = batching.sorted_batches(lengths, batch_size, parts)
    assert {row for batch in batches for row in batch} == set(range(count))
    (size,) = {len(batch) for batch in batches}
    assert size <= max(batch_size + parts - 1, 1) and (size % parts == 0 or count == 1)
    for start in range(0, len(batches), 16):  # among sixteen batches, short rows come first
        flat = [lengths[row] for batch in batches[start : start + 16] for row in batch]
        assert flat == sorted(flat)


def test_prompts_end_and_inputs_begin_at_one_slot():
    rows = batching.Rows([ids(1, 2), ids(3)], [ids(1, 1), ids(1)], [ids(5), ids(6, 7)], {})
    arrays = batching.pad_rows(rows, new_tokens=33)
    assert arrays["encoder_token_ids"].shape == (2, 64)
    assert arrays["encoder_token_ids"][:, :2].tolist() == [[1, 2], [3, 0]]
    assert arrays["decoder_token_ids"].shape == (2, 16)
    assert arrays["decoder_token_ids"][:, -2:].tolist() == [[0, 5], [6, 7]]
    assert arrays["decoder_padding_mask"].sum(axis=1).tolist() == [1, 2]
    assert arrays["new_token_ids"].shape == (2, 64) and (arrays["new_token_ids"] == -1).all()
    assert arrays["new_tokens"] == 33
    alone = batching.pad_prompts(batching.rows_of_prompts([ids(2)]), 1)
    assert alone["decoder_token_ids"].tolist() == [[2]]  # mostly a start token: no padding for it


def test_new_tokens_end_at_a_stop_a_budget_or_where_nothing_was_written():
    rows = np.array([[2, 4, 1, 5, 6], [2, 4, 5, 6, 7], [2, 4, -1, -1, -1], [2, 1, 1, 1, 1]])
    got = batching.new_tokens_of_rows(rows, 1, [4, 2, 4, 4], (1,))
    assert [row.tolist() for row in got] == [[4, 1], [4, 5], [4], [1]]
    got = batching.new_tokens_of_rows(rows[:1], 1, [4], None)
    assert got[0].tolist() == [4, 1, 5, 6]
    broken = np.array([[2, 4, NOT_FINITE, NOT_FINITE]])
    assert batching.new_tokens_of_rows(broken, 1, [3], ())[0].tolist() == [4, -2, -2]


def test_outputs_are_padded_at_the_right():
    outputs = batching.pad_outputs([ids(3, 4), ids()], 3)
    assert outputs["decoder_token_ids"].tolist() == [[3, 4, 0], [0, 0, 0]]
    assert outputs["decoder_padding_mask"].tolist() == [[True, True, False], [False] * 3]


def test_prompts_have_fewer_sizes_than_texts():
    assert [batching.size_of(n, 16) for n in (3, 17, 33, 65, 129, 257, 385)] == [
        *(16, 32, 64, 128, 256, 384, 512)
    ]
