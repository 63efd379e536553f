"""What a model is to do: what is no work, and how it is shared out."""

import pytest

from keras_t5gemma2.planning.work import Work, compute_size, divides

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "train"}, "mode='train'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1. Received: batch_size=0"),
        ({"rank": -1}, "rank=-1"),
        ({"encoder_length": 0}, "encoder_length=0"),
        ({"decoder_length": 0}, "decoder_length=0"),
        ({"mesh": (2, 0)}, r"mesh=\(2, 0\)"),
        ({"mesh": (2,)}, r"mesh=\(2,\)"),
        ({"dtype": "float31"}, "float31"),
    ],
)
def test_what_is_no_work(wrong, message):
    with pytest.raises(ValueError, match=message):
        Work(**wrong)


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_rows_of_the_device_that_has_most(batch_size, rows):
    assert Work(batch_size=batch_size, mesh=(4, 2)).rows == rows


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("mixed_bfloat16", 2), ("float16", 2)]
)
def test_the_size_of_a_number_that_is_computed_with(dtype, size):
    assert compute_size(Work(dtype=dtype)) == size


def test_an_axis_that_cannot_be_divided_stays_whole():
    work = Work(mesh=(3, 4))
    assert [divides(count, work) for count in (1, 2, 4, 6, 8, 12)] == [1, 1, 4, 1, 4, 4]
