"""What the runtime of every backend has to do, as checks of one backend's module."""

import types

import numpy as np
from gradients import value_and_gradients
from keras import ops


def check_differentiable(runtime):
    """The gradient is the given one, of inputs, output and what `forward` kept for it."""
    seen = []

    def forward(fixed, x, y):
        return x * y, x + y

    def backward(fixed, tensors, output, extra, upstream):
        seen.append(len(tensors))
        x, y = tensors
        factor = ops.cast(fixed, "float32")
        return factor * upstream, upstream * (2 * output + extra + x - y)

    function = runtime.differentiable(forward, backward)
    fixed = ops.convert_to_tensor(np.array([2, 3], "int32"))
    x, y = (ops.convert_to_tensor(np.array(values, "float32")) for values in ([1, 2], [3, 5]))
    value, (of_x, of_y) = value_and_gradients(
        lambda x, y: ops.sum(4 * function(fixed, x, y)), [x, y]
    )
    assert value == 4 * (3 + 10) and set(seen) == {2}
    np.testing.assert_allclose(of_x, [8, 12])
    np.testing.assert_allclose(of_y, [4 * (6 + 4 + 1 - 3), 4 * (20 + 7 + 2 - 5)])


def check_rematerialized(runtime):
    """Values and gradients are those of the function itself, and what else it gives stays."""

    def function(x, y):
        return ops.sin(x) * y, {"more": ops.stop_gradient(x)}

    def loss(x, y):
        output, more = runtime.rematerialized(function)(x, y)
        return ops.sum(output) + ops.sum(ops.stop_gradient(more["more"]))

    x, y = np.array([0.5, -1.0], "float32"), np.array([2.0, 3.0], "float32")
    value, slopes = value_and_gradients(loss, [ops.convert_to_tensor(x), ops.convert_to_tensor(y)])
    np.testing.assert_allclose(value, (np.sin(x) * y).sum() + x.sum(), rtol=1e-5)
    np.testing.assert_allclose(slopes[0], np.cos(x) * y, rtol=1e-5)
    np.testing.assert_allclose(slopes[1], np.sin(x), rtol=1e-5)


def check_map_blocks(runtime):
    """Along the second of three axes, with a tree of what is made beside each block."""
    x = np.arange(12, dtype="float32").reshape(1, 6, 2)

    def function(i, block):
        return block * (1 + ops.cast(i, "float32")), ops.max(block)

    found, more = runtime.map_blocks(function, ops.convert_to_tensor(x), 2, 1)
    factors = np.repeat([1, 2, 3], 2)[None, :, None]
    np.testing.assert_array_equal(ops.convert_to_numpy(found), x * factors)
    assert ops.convert_to_numpy(more).tolist() == [3, 7, 11]


def task(**attributes):
    """As much of a task as its programs look at."""
    usual = {"run_eagerly": False, "jit_compile": True}
    variables = {"trainable_variables": [], "non_trainable_variables": []}
    return types.SimpleNamespace(**{**usual, **variables, **attributes})
