"""Keys and values of new tokens written into the slots of earlier ones."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues


def test_write_puts_tokens_into_slots(rng):
    past, fresh = random_tokens(rng, 2, 5), random_tokens(rng, 2, 1)
    before = [numpy32(leaf).copy() for leaf in past]
    after = kernels.write(past, fresh, ops.convert_to_tensor(3, dtype="int32"))
    for old, new, one in zip(before[:2], after[:2], fresh[:2], strict=True):
        np.testing.assert_array_equal(numpy32(new)[:, :, 3], numpy32(one)[:, :, 0])
        rest = [0, 1, 2, 4]
        np.testing.assert_array_equal(numpy32(new)[:, :, rest], old[:, :, rest])
    np.testing.assert_array_equal(numpy32(after.positions), before[2])


def test_write_puts_several_tokens_into_slots_past_the_end_of_a_ring(rng):
    past, fresh = random_tokens(rng, 3, 5), random_tokens(rng, 3, 3)
    before = [numpy32(leaf).copy() for leaf in past]
    after = kernels.write(past, fresh, ops.convert_to_tensor([4, 0, 1], dtype="int32"))
    for old, new, three in zip(before[:2], after[:2], fresh[:2], strict=True):
        np.testing.assert_array_equal(numpy32(new)[:, :, [4, 0, 1]], numpy32(three))
        np.testing.assert_array_equal(numpy32(new)[:, :, [2, 3]], old[:, :, [2, 3]])


def random_tokens(rng, num_kv_heads, length):
    shape = (2, num_kv_heads, length, 8)
    positions = np.broadcast_to(np.arange(length, dtype="int32"), (2, length))
    return KeyValues(
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32")),
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32")),
        ops.convert_to_tensor(positions.copy()),
    )


@pytest.mark.once
def test_what_is_written_into_scaled_numbers_is_rounded(rng):
    past, fresh = random_tokens(rng, 2, 5), random_tokens(rng, 2, 1)
    past = past._replace(keys=kernels.rounded(past.keys))
    before = [numpy32(leaf).copy() for leaf in past.keys]
    after = kernels.write(past, fresh, ops.convert_to_tensor(3, dtype="int32"))
    for old, new, one in zip(before, after.keys, kernels.rounded(fresh.keys), strict=True):
        old[:, :, 3] = numpy32(one)[:, :, 0]
        np.testing.assert_array_equal(numpy32(new), old)
    np.testing.assert_array_equal(numpy32(after.values)[:, :, 3], numpy32(fresh.values)[:, :, 0])


def numpy32(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))
