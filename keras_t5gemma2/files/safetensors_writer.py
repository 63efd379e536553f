"""Safetensors files, single or in shards, written tensor by tensor and piece by piece.

(`safetensors.numpy.save_file` takes all tensors of a file at once, each in one piece of memory.)
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_t5gemma2.files.safetensors import INDEX_FILE, SINGLE_FILE, type_code
from keras_t5gemma2.files.tensors import progress_bar
from keras_t5gemma2.messages import shown

# Values are converted and written in pieces, so that only a piece is in memory twice.
_BYTES_PER_PIECE = 1 << 22
# The format asks for a header of a multiple of it.
_ALIGNMENT = 8
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class NewTensor(NamedTuple):
    """A tensor to be written.

    Args:
        name: string, in the file.
        shape: tuple of ints, in the file.
        dtype: numpy dtype in the file.
        read: function without arguments that gives the values, an array of that shape and of
            any float dtype, when their turn comes.
    """

    name: str
    shape: tuple
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize


def write_safetensors(directory, tensors, max_shard_size):
    """Writes `model.safetensors`, or shards and an index where they are larger than one.

    Args:
        directory: `pathlib.Path` of a directory that is there.
        tensors: list of `NewTensor`.
        max_shard_size: int, bytes. A file of several tensors is no larger.

    Raises:
        ValueError: a value is too large for the dtype that it is to be written in.

    Example:

    >>> import pathlib, tempfile
    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> ones = NewTensor("ones", (3, 5), np.dtype("float32"), lambda: np.ones((3, 5)))
    >>> write_safetensors(directory, [ones], max_shard_size=1000)
    >>> [path.name for path in directory.iterdir()]
    ['model.safetensors']
    """
    shards = shards_of(tensors, max_shard_size)
    progress = progress_bar(sum(tensor.num_bytes for tensor in tensors))
    done = 0
    for file, part in shards.items():
        with open(directory / file, "wb") as output:
            output.write(_header(part))
            for tensor in part:
                for piece in _pieces(tensor):
                    output.write(piece)
                    done += len(piece)
                    progress(done)
    if len(shards) > 1:
        text = json.dumps(_index(shards), indent=2, sort_keys=True)
        (directory / INDEX_FILE).write_text(text + "\n", encoding="utf-8")


def shards_of(tensors, max_shard_size):
    """Which tensors go into which file: a dict of lists of `NewTensor` by file name.

    Args:
        tensors: list of `NewTensor`.
        max_shard_size: int, bytes. A tensor that is larger gets a file of its own.
    """
    parts, size = [[]], 0
    for tensor in tensors:
        if parts[-1] and size + tensor.num_bytes > max_shard_size:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += tensor.num_bytes
    if len(parts) == 1:
        return {SINGLE_FILE: _aligned(parts[0])}
    stem, _, end = SINGLE_FILE.partition(".")
    names = (f"{stem}-{i + 1:05}-of-{len(parts):05}.{end}" for i in range(len(parts)))
    return {name: _aligned(part) for name, part in zip(names, parts, strict=True)}


def parse_size(size):
    """Bytes of a size such as "5GB", "300 MB" or 1000.

    >>> parse_size("1.5GB")
    1500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]?B|)", str(size).strip(), re.IGNORECASE)
    count = round(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if isinstance(size, bool) or count < 1:
        raise ValueError(
            "`max_shard_size` must be a number of bytes, at least 1, or a string such as '5GB' or "
            f"'300MB'. Received: max_shard_size={shown(size)}"
        )
    return count


def _aligned(tensors):
    """The widest numbers first, so that each stands at a multiple of its width."""
    return sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)


def _header(tensors):
    entries, start = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        offsets = [start, start + tensor.num_bytes]
        shape = list(map(int, tensor.shape))
        code = type_code(tensor.dtype)
        entries[tensor.name] = {"dtype": code, "shape": shape, "data_offsets": offsets}
        start = offsets[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _index(shards):
    tensors = [tensor for part in shards.values() for tensor in part]
    return {
        "metadata": {
            "total_parameters": sum(int(np.prod(tensor.shape)) for tensor in tensors),
            "total_size": sum(tensor.num_bytes for tensor in tensors),
        },
        "weight_map": {tensor.name: file for file, part in shards.items() for tensor in part},
    }


def _pieces(tensor):
    """The bytes of a tensor, piece by piece."""
    values = tensor.read()
    if values.shape != tuple(tensor.shape):
        raise AssertionError(f"{tensor.name} was said to be {tensor.shape} and is {values.shape}")
    values = np.atleast_1d(values)
    width = values[:1].size * max(values.itemsize, tensor.dtype.itemsize)
    step = max(1, _BYTES_PER_PIECE // max(1, width))
    for start in range(0, len(values), step):
        piece = np.ascontiguousarray(_converted(tensor, values[start : start + step]))
        yield memoryview(piece.reshape(-1).view(np.uint8))


def _converted(tensor, values):
    """`values` in the dtype of the file; the same bits where it is theirs."""
    if values.dtype == tensor.dtype:
        return values
    with np.errstate(over="ignore"):
        converted = values.astype(tensor.dtype)
    if np.any(np.isinf(converted) & ~np.isinf(values)):
        largest = float(np.nanmax(np.abs(np.asarray(values, "float64"))))
        raise ValueError(
            f"Every weight must fit into the `dtype` that is written. Received: dtype="
            f"{tensor.dtype.name!r}, and {tensor.name} holds {largest:.3g}. Write bfloat16 or "
            "float32"
        )
    return converted
