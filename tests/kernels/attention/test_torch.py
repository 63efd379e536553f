"""Torch's attention of few queries against the reference, and a cache that is written in place."""

import keras
import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import KeyValues, Window, rounded
from keras_t5gemma2.kernels.attention import reference
from keras_t5gemma2.kernels.attention.dispatch import backend

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="kernels of torch")


def tensor(rng, *shape):
    return ops.convert_to_tensor(rng.standard_normal(shape, "float32"))


def test_a_cache_is_written_where_it_lies(rng):
    buffer, values = tensor(rng, 2, 3, 5, 4), tensor(rng, 2, 3, 2, 4)
    want = ops.convert_to_numpy(buffer).copy()
    got = backend.write_slots(buffer, values, ops.array([4, 0], "int32"))
    want[:, :, [4, 0]] = ops.convert_to_numpy(values)
    assert got.data_ptr() == buffer.data_ptr()
    np.testing.assert_array_equal(ops.convert_to_numpy(buffer), want)


def test_rows_that_were_one_piece_of_memory_part_when_they_are_written(rng):
    row = tensor(rng, 1, 1, 3, 4)
    before = ops.convert_to_numpy(row).copy()
    got = backend.write_slots(
        row.expand(2, -1, -1, -1), tensor(rng, 2, 1, 1, 4).double(), ops.array(1, "int32")
    )
    assert got.dtype == row.dtype and not ops.all(got[0, 0, 1] == got[1, 0, 1])
    np.testing.assert_array_equal(ops.convert_to_numpy(row), before)


@pytest.mark.parametrize("window", [Window(), Window.causal(3), Window.bidirectional(3)], ids=str)
def test_sums_are_those_of_the_reference(rng, window):
    """Of segments with scales, with rows that several share, of another width, and of no rule."""
    positions = ops.array([[0, 1], [1, 2], [-1, 4], [2, 3]], "int32")
    there = ops.array([[0, 1, 2, 3, 4], [-1, -1, 2, 3, 4]], "int32")
    queries = [tensor(rng, 4, 6, 2, width) for width in (8, 8, 4)]
    segments = [
        (KeyValues(tensor(rng, 4, 2, 2, 8), tensor(rng, 4, 2, 2, 8), positions), window),
        (KeyValues(*(rounded(tensor(rng, 2, 2, 5, 8)) for _ in range(2)), there), window),
        (KeyValues(tensor(rng, 4, 3, 7, 4), tensor(rng, 4, 3, 7, 5), None), Window()),
    ]
    got = backend.weighted_sums(queries, positions, segments, 0.3)
    want = reference.weighted_sums(queries, positions, segments, 0.3)
    assert [x.shape[-1] for x in got] == [8, 8, 5]
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE["float32"])


def test_few_queries_get_the_dtype_that_they_have_and_zeros_if_they_see_nothing(rng):
    query = tensor(rng, 1, 2, 2, 8).half()
    there = ops.array([[0, 1, -1]], "int32")
    segments = [(KeyValues(tensor(rng, 1, 1, 3, 8), tensor(rng, 1, 1, 3, 8), there), Window(0, 0))]
    got = backend.attend_scores(query, ops.array([[1, 7]], "int32"), segments, 0.3)
    assert got.dtype == query.dtype
    values = segments[0][0].values[0, 0, 1]
    np.testing.assert_allclose(got[0, :, 0], values.half().expand(2, -1), rtol=1e-3)
    assert not got[0, :, 1].any()


def test_kernels_are_in_the_table_with_the_better_ones_first():
    assert list(backend.ATTENTION) == ["few", "scores", "flash", "flex"]
    query = ops.zeros((1, 2, 9, 8))
    segments = [(KeyValues(query, query, None), Window())]
    why = {name: why(query, segments, "cpu") for name, (_, why, _) in backend.ATTENTION.items()}
    assert why["scores"] == "9 queries are more than 8" and why["flex"] == "it is for cuda only"
    query = query[:, :, :8]
    assert backend.ATTENTION["scores"][1](query, segments, "cpu") is None
