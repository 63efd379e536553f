"""Where in a cache each token goes."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.generation import cache
from keras_t5gemma2.kernels import KeyValues


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 11])
def test_a_packed_ring_holds_the_last_tokens_in_their_slots(rng, length):
    tokens = random_tokens(rng, length)
    ring = cache.pack(tokens, 4)
    for slot, position in enumerate(ops.convert_to_numpy(ring.positions)[0]):
        if position < 0:
            assert slot >= length
            continue
        assert position % 4 == slot and length - 4 <= position < length
        for held, given in ((ring.keys, tokens.keys), (ring.values, tokens.values)):
            np.testing.assert_array_equal(numpy32(held)[:, :, slot], numpy32(given)[:, :, position])
    assert (ops.convert_to_numpy(ring.positions) >= 0).sum() == 2 * min(length, 4)


def random_tokens(rng, length):
    keys, values = (
        ops.convert_to_tensor(rng.normal(size=(2, 2, length, 8)).astype("float32"))
        for _ in range(2)
    )
    positions = np.broadcast_to(np.arange(length, dtype="int32"), (2, length))
    return KeyValues(keys, values, ops.convert_to_tensor(positions.copy()))


def numpy32(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))
