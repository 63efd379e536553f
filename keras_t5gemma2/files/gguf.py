"""GGUF files: what they hold at once, the values one tensor at a time.

The header is read here and not by `gguf.GGUFReader`, which makes a numpy view of every number in
it: that takes half a minute for a vocabulary of 262,144 pieces, and this less than a second. What
the numbers mean, the types of values and the blocks of quantized tensors, is the library's.
"""

import dataclasses
import math
import mmap
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from keras_t5gemma2.files.safetensors import FileTensor
from keras_t5gemma2.messages import shown

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# The letters that `struct` and numpy have for GGUF's types of numbers.
_LETTERS = {
    **{"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"},
    **{"INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q"},
    **{"FLOAT32": "f", "FLOAT64": "d", "BOOL": "?"},
}
# Values that become float32 at once: what this needs on the way is small beside a large tensor.
_VALUES_AT_ONCE = 1 << 22
_LARGEST_ALIGNMENT = 1 << 20
_MOST_AXES = 8


class GGUFFile(NamedTuple):
    """What a GGUF file holds.

    Args:
        metadata: dict of values by key: numbers, booleans, strings, lists of strings, and numpy
            arrays of numbers.
        tensors: dict of `GGUFTensor` by name.
    """

    metadata: dict
    tensors: dict


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """A tensor of a GGUF file.

    Args:
        stored: `FileTensor` of the quantized values: (rows, bytes of a row), uint8.
        kind: `gguf.GGMLQuantizationType`, what the bytes mean.
        shape: tuple of ints, of the values; the last axis is that of the rows.
    """

    stored: FileTensor
    kind: Any
    shape: tuple

    @property
    def name(self):
        return self.stored.name

    def read(self):
        """The values in float32, in memory of their own."""
        dequantize = import_gguf().dequantize
        rows = self.stored.read()
        values = np.empty((len(rows), self.shape[-1]), "float32")
        step = max(1, _VALUES_AT_ONCE // self.shape[-1])
        try:
            for start in range(0, len(rows), step):
                piece = slice(start, start + step)
                values[piece] = dequantize(rows[piece], self.kind)
        except NotImplementedError as error:
            raise ValueError(
                "A tensor must be of a type that the installed `gguf` package can turn into "
                f"numbers. Received: {self.name} of type {self.kind.name}"
            ) from error
        self.stored.release()
        return values.reshape(self.shape)


def read_gguf(path):
    """The metadata and the tensors of a GGUF file, which is mapped and not read.

    Args:
        path: path of the file.

    Returns:
        A `GGUFFile`.

    Raises:
        ImportError: the `gguf` package is not installed.
        ValueError: the file is no GGUF file, is cut off, or is of a kind that cannot be read.
    """
    gguf = import_gguf()
    header = _Header(pathlib.Path(path))
    version = header.take("I")
    if version not in _VERSIONS:
        raise ValueError(
            "A GGUF file must be of version 2 or 3, and little-endian. "
            f"Received: {path} of version {version}"
        )
    num_tensors, num_values = header.take("QQ")
    metadata = dict(_value(header, gguf) for _ in range(num_values))
    entries = [_tensor_entry(header) for _ in range(num_tensors)]
    names = {entry[0] for entry in entries}
    if len(metadata) < num_values or len(names) < num_tensors:
        raise header.damaged("a key, or the name of a tensor, is there twice")
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _LARGEST_ALIGNMENT:
        raise header.damaged(f"its general.alignment is {shown(alignment)}")
    start = -(-header.position // alignment) * alignment
    return GGUFFile(metadata, {entry[0]: _tensor(header, gguf, start, *entry) for entry in entries})


def import_gguf():
    """The `gguf` package, or an `ImportError` that says how to install it."""
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            "Reading a GGUF file needs the `gguf` package, which is not installed. Install it "
            'with `pip install "keras-t5gemma2[gguf]"`.'
        ) from error
    return gguf


class _Header:
    """Numbers and strings from the start of a file, one after another."""

    def __init__(self, path):
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
            if magic != _MAGIC:
                raise ValueError(
                    f"A GGUF file must begin with {_MAGIC!r}. Received: {path}, which begins with "
                    f"{magic!r}"
                )
            self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.path, self.position = path, len(_MAGIC)

    def take(self, letters):
        """The numbers of a `struct` format; one alone comes without a tuple."""
        numbers = struct.unpack(f"<{letters}", self.take_bytes(struct.calcsize(f"<{letters}")))
        return numbers[0] if len(numbers) == 1 else numbers

    def take_string(self):
        data = self.take_bytes(self.take("Q"))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a text before byte {self.position} is not UTF-8") from error

    def damaged(self, problem):
        return ValueError(f"{self.path} is no sound GGUF file: {problem}. Get it again.")

    def take_bytes(self, count):
        start, self.position = self.position, self.position + count
        self.check_end(self.position, "its header")
        return self.mapping[start : self.position]

    def check_end(self, end, part):
        if end > len(self.mapping):
            raise ValueError(
                f"{self.path} is no whole GGUF file: {part} goes on to byte {end}, and the file "
                f"has {len(self.mapping)}. It may be cut off; get it again."
            )


def _value(header, gguf):
    """The next key of the metadata, and its value."""
    key, kind = header.take_string(), header.take("I")
    if kind == gguf.GGUFValueType.STRING:
        return key, header.take_string()
    if kind == gguf.GGUFValueType.ARRAY:
        return key, _array(header, gguf, key)
    value = header.take(_letter(header, gguf, key, kind))
    # The shortest number that float32 rounds to this one: 1e-06, not 9.99999997e-07.
    return key, float(str(np.float32(value))) if kind == gguf.GGUFValueType.FLOAT32 else value


def _array(header, gguf, key):
    kind, count = header.take("IQ")
    if kind == gguf.GGUFValueType.STRING:
        return [header.take_string() for _ in range(count)]
    dtype = np.dtype("<" + _letter(header, gguf, key, kind))
    return np.frombuffer(header.take_bytes(count * dtype.itemsize), dtype)


def _letter(header, gguf, key, kind):
    name = next((known.name for known in gguf.GGUFValueType if known == kind), None)
    if name not in _LETTERS:
        raise ValueError(
            "The metadata of a GGUF file must be numbers, booleans, strings, and lists of those. "
            f"Received: {header.path}, where {key} is of type {name or kind}"
        )
    return _LETTERS[name]


def _tensor_entry(header):
    """Name, shape, type and place of the next tensor."""
    name = header.take_string()
    num_axes = header.take("I")
    if num_axes > _MOST_AXES:
        raise header.damaged(f"the tensor {shown(name)} has {num_axes} axes")
    shape = [header.take("Q") for _ in range(num_axes)]
    kind, start = header.take("IQ")
    return name, tuple(reversed(shape)), kind, start


def _tensor(header, gguf, data_start, name, shape, kind, start):
    if kind not in set(gguf.GGMLQuantizationType) or not shape:
        raise ValueError(
            "A tensor must have axes, and be of a type that the installed `gguf` package knows. "
            f"Received: {header.path}, where {name} is of shape {shape} and type {kind}"
        )
    kind = gguf.GGMLQuantizationType(kind)
    values_per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
    num_rows = math.prod(shape[:-1])
    if 0 in shape or shape[-1] % values_per_block:
        raise header.damaged(f"the tensor {shown(name)}, of {kind.name}, has the shape {shape}")
    row_bytes = shape[-1] // values_per_block * bytes_per_block
    stored = FileTensor(
        name=name,
        path=header.path,
        dtype=np.dtype("uint8"),
        shape=(num_rows, row_bytes),
        start=data_start + start,
        mapping=header.mapping,
    )
    header.check_end(stored.start + stored.num_bytes, f"the tensor {name}")
    return GGUFTensor(stored, kind, shape)
