"""Which blocks of keys a block of queries visits, and what is seen without positions."""

import numpy as np
import pytest
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention import blocked


def test_a_window_limits_the_blocks_that_are_visited():
    positions = ops.arange(64, dtype="int32")[None]
    first, end = blocked.ranges(positions, 8, positions, 4, Window.bidirectional(8))
    # Queries 8 to 15 see keys 5 to 19: blocks 1 to 4 of four keys.
    assert (int(first[1]), int(end[1])) == (1, 5)
    assert int(ops.max(end - first)) == 4


def test_padding_is_not_visited():
    positions = ops.convert_to_tensor([[0, 1, 2, 3, 4, 5, -1, -1, -1, -1, -1, -1]], dtype="int32")
    first, end = blocked.ranges(positions, 4, positions, 4, Window())
    assert ops.convert_to_numpy(first).tolist() == [0, 0, 0]
    assert ops.convert_to_numpy(end).tolist() == [2, 2, 0]


@pytest.mark.once
def test_rows_of_a_batch_visit_what_any_of_them_sees():
    positions = ops.convert_to_tensor([[0, 1, 2, 3, 4, 5, 6, 7], [-1] * 6 + [0, 1]], dtype="int32")
    first, end = blocked.ranges(positions, 2, positions, 2, Window.causal(2))
    # The keys 0 and 1 of the second row stand in the last block.
    assert ops.convert_to_numpy(first).tolist() == [0, 0, 1, 2]
    assert ops.convert_to_numpy(end).tolist() == [1, 2, 3, 4]
    first, end = blocked.ranges(positions[1:], 2, positions[1:], 2, Window.causal(2))
    assert ops.convert_to_numpy(end - first).tolist() == [0, 0, 0, 1]


@pytest.mark.once
def test_without_positions_every_query_sees_every_key(rng, monkeypatch):
    for name, size in (("QUERIES", 4), ("KEYS", 3)):
        monkeypatch.setattr(blocked, name, size)
    query, keys, values = (
        rng.standard_normal((2, heads, length, 8), "float32")
        for heads, length in ((4, 9), (2, 7), (2, 7))
    )
    parts = [(KeyValues(*map(ops.convert_to_tensor, (keys, values)), None), Window())]
    got = blocked.attend(ops.convert_to_tensor(query), None, parts, 0.3)
    keys, values = (np.repeat(x, 2, axis=1) for x in (keys, values))
    weights = np.exp(0.3 * query @ keys.swapaxes(2, 3))
    want = weights / weights.sum(axis=-1, keepdims=True) @ values
    np.testing.assert_allclose(ops.convert_to_numpy(got), want, **TOLERANCE["float32"])
