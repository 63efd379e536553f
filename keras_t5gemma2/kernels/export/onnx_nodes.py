"""Products and rows of integers as nodes of onnxruntime's own, while ONNX models are written."""

import contextlib
import contextvars
from typing import Any, NamedTuple

_weights = contextvars.ContextVar("weights", default=None)


class NBits(NamedTuple):
    """A matrix with N rows, one for each output, and G blocks in a row."""

    codes: Any  # uint8 (N, G, bytes of a block), of 4 bits two to a byte
    scales: Any  # float32 (N, G)
    zeros: Any  # uint8 (N, half of G), two to a byte; `None`: the middle of the codes
    bits: int  # 8 or 4
    block: int  # numbers
    length: int  # of a row, without what fills up its last block


@contextlib.contextmanager
def written(weights, accuracy_level):
    """Inside, layers are written as nodes.

    Args:
        weights: dict of `NBits` of NumPy arrays by the `id` of a layer.
        accuracy_level: int, of the nodes. 0 computes in floats, 4 with inputs of 8 bits.
    """
    import torch

    def tensors(found):
        arrays = (None if x is None else torch.from_numpy(x.copy()) for x in found[:3])
        return found._replace(**dict(zip(NBits._fields, arrays, strict=False)))

    weights = {key: (tensors(found), accuracy_level) for key, found in weights.items()}
    token = _weights.set(weights)
    try:
        yield
    finally:
        _weights.reset(token)


def node_of(layer):
    """What `product` and `rows` take, or `None` if a layer is not to be written as a node."""
    weights = _weights.get()
    return None if weights is None else weights.get(id(layer))


def product(x, node):
    """(..., N) product of `x` (..., length) and the rows of a matrix."""
    import torch

    found, level = node
    count = found.codes.shape[0]
    attributes = {"K": found.length, "N": count, "bits": found.bits, "block_size": found.block}
    tensors = [x, found.codes, found.scales] + ([] if found.zeros is None else [found.zeros])
    return torch.onnx.ops.symbolic(
        "com.microsoft::MatMulNBits",
        tensors,
        attrs=attributes | ({"accuracy_level": level} if level else {}),
        dtype=x.dtype,
        shape=(*x.shape[:-1], count),
        version=1,
    )


def rows(ids, node):
    """(..., length) rows of a matrix, from the same integers."""
    found, _ = node
    flat = ids.flatten().long()  # of which exporters make a plain Gather

    def taken(table):
        return table.index_select(0, flat).unflatten(0, ids.shape)

    codes, scales = taken(found.codes), taken(found.scales)
    zeros = 1 << (found.bits - 1)
    if found.zeros is not None:
        zeros = _apart(taken(found.zeros))[..., : scales.shape[-1], None]
    if found.bits == 4:
        codes = _apart(codes)
    return ((codes.float() - zeros) * scales[..., None]).flatten(-2)[..., : found.length]


def _apart(pairs):
    """Numbers of 4 bits, two of which are in a byte."""
    import torch

    pairs = pairs.int()
    return torch.stack([pairs % 16, pairs // 16], dim=-1).flatten(-2)
