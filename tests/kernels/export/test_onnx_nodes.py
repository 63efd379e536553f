"""Products and rows of integers, as onnxruntime computes them of what is written."""

import keras
import numpy as np
import pytest
from keras import InputSpec

from keras_t5gemma2.kernels.export import onnx_nodes, onnx_programs
from keras_t5gemma2.kernels.export.onnx_nodes import NBits

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(keras.config.backend() != "torch", reason="torch writes them"),
]


def weights(bits, count, length, block, has_zeros, rng):
    """An `NBits`, and the (count, length) matrix that it stands for."""
    blocks = -(-length // block)
    codes = rng.integers(0, 1 << bits, (count, blocks, block))
    scales = rng.normal(size=(count, blocks)).astype("float32")
    zeros = rng.integers(0, 16, (count, blocks + blocks % 2))
    middle = zeros[:, :blocks, None] if has_zeros else 1 << (bits - 1)
    matrix = ((codes - middle) * scales[..., None]).reshape(count, -1)[:, :length]
    if bits == 4:
        codes = codes[..., ::2] + 16 * codes[..., 1::2]
    zeros = (zeros[:, ::2] + 16 * zeros[:, 1::2]).astype("uint8") if has_zeros else None
    return NBits(codes.astype("uint8"), scales, zeros, bits, block, length), matrix


@pytest.mark.parametrize(
    ("bits", "length", "block", "has_zeros", "level"),
    [(8, 37, 16, False, 0), (4, 37, 16, False, 0), (4, 70, 32, True, 0), (8, 64, 32, False, 4)],
)
def test_onnxruntime_gives_products_and_rows(rng, tmp_path, bits, length, block, has_zeros, level):
    import onnx

    onnxruntime = pytest.importorskip("onnxruntime")
    found, matrix = weights(bits, 11, length, block, has_zeros, rng)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])

    def function(inputs):
        node = onnx_nodes.node_of(model)
        product = onnx_nodes.product(inputs["x"], node)
        return {"product": product, "rows": onnx_nodes.rows(inputs["ids"], node)}

    specs = {"x": InputSpec(shape=(2, 3, length), dtype="float32")}
    specs["ids"] = InputSpec(shape=(2, 2), dtype="int32")
    with onnx_nodes.written({id(model): found}, level):
        (program,) = onnx_programs.programs(model, {"both": (function, specs)}).values()
    assert onnx_nodes.node_of(model) is None
    path = tmp_path / "both.onnx"
    onnx_programs.save(program, path)
    graph = onnx.load(path).graph
    (node,) = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert [x.i for x in node.attribute if x.name == "accuracy_level"] == [level] * (level > 0)
    codes = [x for x in graph.initializer if tuple(x.dims) == found.codes.shape]
    assert len(codes) == 1  # for both

    x = rng.normal(size=(2, 3, length)).astype("float32")
    ids = np.array([[10, 0], [3, 3]], "int32")
    product, rows = onnxruntime.InferenceSession(path).run(None, {"x": x, "ids": ids})
    np.testing.assert_allclose(rows, matrix[ids], rtol=1e-6)
    error = np.abs(product - x @ matrix.T).max() / np.abs(x @ matrix.T).max()
    assert error < 1e-6 if level == 0 else 1e-4 < error < 0.05
