"""JAX's splash kernel, here interpreted, against the kernel that forms all scores."""

import keras
import numpy as np
import pytest
from gradients import relative_error, value_and_gradients
from keras import ops
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention import dispatch

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="a kernel of JAX")


def attend(kernel, tensors, positions, window, cap=None):
    query, keys, values = tensors
    with kernels.use(kernel):
        parts = [(KeyValues(keys, values, positions), window)]
        return kernels.attend(query, positions, parts, 0.3, cap)


@pytest.mark.parametrize(
    ("window", "num_kv_heads", "cap", "width"),
    [
        (Window.bidirectional(64), 1, None, 128),
        pytest.param(Window.bidirectional(9), 2, None, 128, marks=pytest.mark.slow),
        pytest.param(Window(), 1, None, 72, marks=pytest.mark.slow),
        pytest.param(Window.bidirectional(9), 2, 0.7, 128, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_splash_attention(rng, window, num_kv_heads, cap, width):
    length = 256
    shapes = [(4, length, width), *[(num_kv_heads, length, width)] * 2]
    tensors = [ops.convert_to_tensor(rng.standard_normal((2, *s), "float32")) for s in shapes]
    positions = np.tile(np.arange(length, dtype="int32"), (2, 1))
    positions[0, -57:] = -1
    positions[1, :9] = -1
    slope = rng.standard_normal((2, *shapes[0]), "float32") * (positions >= 0)[:, None, :, None]
    positions, slope = ops.convert_to_tensor(positions), ops.convert_to_tensor(slope)

    def function(kernel):
        return lambda *x: ops.sum(attend(kernel, x, positions, window, cap) * slope)

    want, wanted = value_and_gradients(function("reference"), tensors)
    got, gradients = value_and_gradients(function("splash"), tensors)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-4)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert relative_error(gradient, expected) < 1e-5


@pytest.mark.parametrize("num_kv_heads", [1, 3])
def test_splash_attention_on_a_mesh(rng, num_kv_heads):
    """Each device runs the kernel on its rows and, where it can, on its heads."""
    length, width = 128, 128
    shapes = [(6, length, width), *[(num_kv_heads, length, width)] * 2]
    tensors = [ops.convert_to_tensor(rng.standard_normal((2, *s), "float32")) for s in shapes]
    positions = np.tile(np.arange(length, dtype="int32"), (2, 1))
    positions[1, -9:] = -1
    positions, window = ops.convert_to_tensor(positions), Window.bidirectional(64)
    want = attend("reference", tensors, positions, window)
    devices = keras.distribution.list_devices()[:6]
    mesh = keras.distribution.DeviceMesh((2, 3), ("batch", "model"), devices)
    layout_map = keras.distribution.LayoutMap(mesh)
    with keras.distribution.ModelParallel(layout_map=layout_map).scope():
        got = attend("splash", tensors, positions, window)
    assert len(got.devices()) == 6
    rows = ops.convert_to_numpy(positions)[:, None, :, None] >= 0
    np.testing.assert_allclose(got * rows, want * rows, **TOLERANCE["float32"])


def test_every_token_sees_every_other_without_positions(rng):
    """As patches of an image do, whose heads are narrower."""
    shape = (1, 2, 128, 72)
    tensors = [ops.convert_to_tensor(rng.standard_normal(shape, "float32")) for _ in range(3)]
    got, want = (attend(kernel, tensors, None, Window()) for kernel in ("splash", "reference"))
    assert got.shape == shape
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


def test_it_is_for_the_encoder_s_lengths_and_widths():
    _, why_not, _ = dispatch.backend.ATTENTION["splash"]
    around = Window.bidirectional(64)

    def can(length=256, width=128, keys=None, window=around, count=1):
        query = ops.zeros((1, 4, length, width))
        other = ops.zeros((1, 1, keys or length, width))
        segments = [(KeyValues(other, other, None), window)] * count
        return why_not(query, segments, "tpu") is None

    assert can() and can(window=Window()) and can(length=128, width=256) and can(width=72)
    assert not can(length=255) and not can(width=63) and not can(keys=128)
    assert not can(window=Window.causal(64)) and not can(window=Window.causal())
    assert not can(count=2)
