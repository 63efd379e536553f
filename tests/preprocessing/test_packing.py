"""Rows of different lengths as arrays of few shapes, and back."""

import numpy as np
import pytest

from keras_t5gemma2.preprocessing.packing import (
    bucket,
    fit_width,
    pad_tokens,
    padded_length,
    stack_images,
    unpad_tokens,
)

pytestmark = pytest.mark.once


def test_a_bucket_is_the_smallest_of_few_sizes_that_holds_a_length():
    sizes = sorted({32, *(2**n for n in range(5, 13)), *(3 * 2**n for n in range(4, 11))})
    for length in range(2049):
        assert bucket(length) == next(size for size in sizes if size >= length)
    padding = [1 - length / bucket(length) for length in range(33, 5000)]
    assert max(padding) < 1 / 3


def test_middles_come_where_they_are_asked_for():
    sizes = {bucket(length, smallest=16, middles_from=128) for length in range(600)}
    assert sorted(sizes) == [16, 32, 64, 128, 192, 256, 384, 512, 768]


def test_rows_are_padded_to_no_more_than_the_cap():
    rows = [np.zeros(5), np.zeros(33)]
    assert padded_length(rows, 100) == 48 and padded_length(rows, 40) == 40
    assert padded_length(rows[:1], 100) == 32


def test_columns_are_cut_or_filled_with_zeros():
    array = np.arange(1, 13).reshape(2, 3, 2)
    assert fit_width(array, 2).tolist() == array[:, :2].tolist()
    assert fit_width(array, 4)[:, 3].tolist() == [[0, 0], [0, 0]]
    assert fit_width(array, 3).tolist() == array.tolist()


def test_padding_comes_off_again_with_the_ids_that_are_dropped():
    rows = [[5, 7, 1], [], [3]]
    ids, mask = pad_tokens([np.array(row, "int32") for row in rows], 4, pad_token_id=9)
    assert ids.tolist() == [[5, 7, 1, 9], [9] * 4, [3, 9, 9, 9]]
    assert unpad_tokens(ids, mask, []) == rows
    assert unpad_tokens(ids, mask, [1, 3]) == [[5, 7], [], []]


def test_rows_of_fewer_images_end_in_zeros():
    got = stack_images([np.ones((0, 2, 3)), np.ones((2, 2, 3)), np.ones((1, 2, 3))])
    assert (got.shape, got.dtype) == ((3, 2, 2, 3), "float32")
    assert got.sum(axis=(2, 3)).tolist() == [[0, 0], [6, 6], [6, 0]]
    assert stack_images([np.ones((0, 5, 5, 3))]).shape == (1, 0, 5, 5, 3)
