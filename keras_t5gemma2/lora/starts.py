"""What A and B of a new adapter start as: values from the kernel, from data, or from noise.

Matrices are (in, out) here; peft has them the other way round.
"""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.kernels.runtime.host_memory import host_array
from keras_t5gemma2.messages import shown

# Larger matrices are decomposed by way of the smaller of their products with themselves.
_SMALL = 512
# Relative to a kernel; quantization to 4 bits, a scale for each column, is off by a sixth or so.
_FAR = 0.5


def start(layer, name, init):
    """Gives A and B of an adapter that has not been trained their values.

    Args:
        layer: `lora.dense.Dense`.
        name: string.
        init: "pissa", "olora" or "orthogonal".

    Raises:
        ValueError: the rank is not one that this start can have.
    """
    adapter = layer.adapters[name]
    rank = adapter.a.shape[1]
    if init == "orthogonal":
        a, b = orthogonal(layer.matrix_shape, rank, layer.path)
    else:
        _check_rank(rank, layer, init)
        kernel = float_kernel(layer)
        a, b = of_largest(kernel, rank, adapter.scale) if init == "pissa" else of_qr(kernel, rank)
        adapter.start_a.assign(a)
        adapter.start_b.assign(b)
    adapter.a.assign(a)
    adapter.b.assign(b)


def start_from_residual(layer, name, kernel):
    """Gives A and B the best approximation of what quantization took (LoftQ, arXiv 2310.08659).

    Only once, from the plain codes: the layer's own matrix stays what `quantize` makes of it.

    Args:
        layer: `lora.dense.Dense` of integers.
        name: string.
        kernel: (in, out) float32 array, the kernel before it was quantized.
    """
    adapter = layer.adapters[name]
    if np.any(ops.convert_to_numpy(adapter.b)):
        raise ValueError(
            'An adapter of `init="loftq"` must not have been trained before the model is '
            f"quantized. Received: {shown(name)} on {layer.path}. Call `quantize` before `fit`."
        )
    rank = adapter.a.shape[1]
    _check_rank(rank, layer, "loftq")
    residual = kernel - float_kernel(layer)
    if np.linalg.norm(residual) > _FAR * np.linalg.norm(kernel):
        raise ValueError(
            "`base` must be what the model was before it was quantized. Received: another one, "
            f"whose kernel at {layer.path} is far from this one's"
        )
    a, b = of_largest(residual, rank, adapter.scale)
    adapter.a.assign(a)
    adapter.b.assign(b)


def float_kernel(layer):
    """(in, out) float32 array, the kernel that a layer computes with, without its adapters."""
    is_float = layer.quantization_mode is None
    kernel = layer.matrix_variable if is_float else layer.float_matrix()
    return np.asarray(host_array(ops.convert_to_tensor(ops.cast(kernel, "float32"))), "float32")


def of_largest(matrix, rank, scale):
    """A and B with scale * A B the nearest matrix of this rank (PiSSA, arXiv 2404.02948)."""
    u, s, v = largest(matrix, rank)
    root = np.sqrt(s / scale)
    return u * root, root[:, None] * v


def of_qr(matrix, rank):
    """A and B of the first columns of Q (OLoRA, arXiv 2406.01775), of the matrix (out, in)."""
    q, r = np.linalg.qr(matrix.T)
    return r[:rank].T, q[:, :rank].T


def orthogonal(shape, rank, path):
    """A and B, neither 0, whose product is 0: each is in half of a random basis."""
    if rank % 2:
        raise ValueError(
            f'`init="orthogonal"` needs even ranks. Received: rank={rank} on {shown(path)}'
        )
    basis, _ = np.linalg.qr(_normal((rank, rank)))
    a = _normal((shape[0], rank // 2)) @ basis[0::2]
    b = basis[1::2].T @ _normal((rank // 2, shape[1]))
    return a / 10, b / 10


def largest(matrix, rank):
    """The largest `rank` singular values of a matrix, largest first, with their vectors.

    Returns:
        (rows, rank), (rank,) and (rank, columns) float32 arrays U, S and V of U S V.
    """
    if min(matrix.shape) <= _SMALL:
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    if matrix.shape[0] < matrix.shape[1]:
        v, s, u = largest(matrix.T, rank)
        return u.T, s, v.T
    wide = matrix.astype("float64")
    squares, vectors = np.linalg.eigh(wide.T @ wide)  # smallest first
    v = vectors[:, ::-1][:, :rank]
    s = np.sqrt(np.maximum(squares[::-1][:rank], 0))
    u = wide @ v / np.maximum(s, np.finfo("float64").tiny)
    return u.astype("float32"), s.astype("float32"), v.T.astype("float32")


def _check_rank(rank, layer, init):
    if rank > (most := min(layer.matrix_shape)):
        raise ValueError(
            f'`init="{init}"` takes a part of the kernel, so that no rank can be more than '
            f"its smaller side. Received: rank={rank} on {layer.path}, whose kernel has {most}"
        )


def _normal(shape):
    return np.asarray(ops.convert_to_numpy(keras.random.normal(shape)))
