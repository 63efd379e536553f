"""Safetensors files, single or in shards: what they hold at once, the values where they lie.

A file is mapped into memory, never read into it: bfloat16 values come as views of the mapping,
and pages that have been read can be given back. (`safetensors.safe_open` copies each tensor, and
gives numpy no bfloat16.)
"""

import dataclasses
import itertools
import json
import mmap
import pathlib

import ml_dtypes
import numpy as np

from keras_t5gemma2.messages import cause, shown, shown_path

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# The limit of the safetensors library. A longer header is none.
_MAX_HEADER_BYTES = 100_000_000
_PICKLE_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")
_DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_},
}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor of a safetensors file.

    Args:
        name: string, in the file.
        path: `pathlib.Path` of the file.
        dtype: numpy dtype of the values in the file.
        shape: tuple of ints, in the file.
        start: int. Where in the file the values start, in bytes.
        mapping: `mmap.mmap` of the file.
    """

    name: str
    path: pathlib.Path
    dtype: np.dtype
    shape: tuple
    start: int
    mapping: mmap.mmap = dataclasses.field(repr=False)

    @property
    def num_bytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def read(self):
        """A read-only view of the values, which are in memory only where something looks."""
        count = int(np.prod(self.shape))
        return np.frombuffer(self.mapping, self.dtype, count, self.start).reshape(self.shape)

    def release(self):
        """Gives back the memory of what has been looked at; a view stays good to read."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = self.start - self.start % mmap.PAGESIZE
        stop = self.start + self.num_bytes
        if stop > start:
            self.mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)


def type_code(dtype):
    """What a header calls a numpy dtype.

    >>> type_code(np.dtype("float32"))
    'F32'
    """
    return _CODES[dtype]


def read_safetensors(directory):
    """The tensors of a checkpoint directory: a dict of `FileTensor` by name in the files.

    Args:
        directory: path of a directory with `model.safetensors`, or with shards and
            `model.safetensors.index.json`.

    Raises:
        FileNotFoundError: there are no safetensors in the directory.
        ValueError: a file is cut off or inconsistent, or shards and index disagree.

    Example:

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> directory = tempfile.mkdtemp()
    >>> save_file({"weight": np.ones((3, 5), "float32")}, f"{directory}/model.safetensors")
    >>> tensors = read_safetensors(directory)
    >>> tensors["weight"].shape, float(tensors["weight"].read().sum())
    ((3, 5), 15.0)
    """
    directory = pathlib.Path(directory)
    if (directory / SINGLE_FILE).is_file():
        return read_safetensors_file(directory / SINGLE_FILE)
    if (directory / INDEX_FILE).is_file():
        return _read_shards(directory)
    found = sorted(path.name for path in directory.iterdir())
    raise FileNotFoundError(
        f"The weights must be in safetensors files: {SINGLE_FILE}, or shards with {INDEX_FILE}. "
        "A checkpoint in another format must be saved again as safetensors first. Received: "
        f"directory={shown_path(directory)}, which holds {', '.join(found) or 'nothing'}"
    )


def read_safetensors_file(path):
    """The tensors of one safetensors file: a dict of `FileTensor` by name.

    Raises:
        ValueError: the file is cut off, or its header is wrong; the message names file and
            tensor.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size < 8:
        raise ValueError(_broken(path, f"it has {size} bytes, and the length of a header takes 8"))
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    check_no_pickle(path, mapping[:8])
    length = int.from_bytes(mapping[:8], "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        problem = f"its header is said to have {length} bytes and the file has {size}"
        raise ValueError(_broken(path, problem))
    header = _parse_header(path, mapping[8 : 8 + length])
    tensors = [
        _file_tensor(path, name, entry, 8 + length, size, mapping)
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    _check_in_a_row(path, tensors, 8 + length, size)
    return {tensor.name: tensor for tensor in tensors}


def _read_shards(directory):
    files = _parse_index(directory / INDEX_FILE)
    shards = {}
    for file in sorted(set(files.values())):
        if not (directory / file).is_file():
            raise ValueError(
                f"{directory / INDEX_FILE} names a shard that is not there: {shown(file)}"
            )
        shards[file] = read_safetensors_file(directory / file)
    for name, file in files.items():
        if name not in shards[file]:
            raise ValueError(
                f"{directory / INDEX_FILE} says that {name} is in {shown(file)}, where it is not"
            )
    for one, other in itertools.combinations(shards, 2):
        if both := sorted(set(shards[one]) & set(shards[other])):
            raise ValueError(
                f"{both[0]} is in two shards of {directory}: {shown(one)} and {shown(other)}"
            )
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def _parse_index(path):
    """The index's dict from names to shards, which are plain names of files beside it."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = list(files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON with a `weight_map` of file names") from error
    for name in names:
        check_plain_name(path, name)
    return files


def check_plain_name(path, name):
    """Raises where an index at `path` names a shard by anything but the name of a file."""
    # A name with either separator is a path on one system or another.
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise ValueError(
            f"{path} must name shards by the plain names of files beside it. Received: "
            f"{shown(name)}"
        )


def check_no_pickle(path, start):
    """Raises where a file of weights begins as something that can run code when it is opened."""
    kind = None
    if start[:1] == b"\x80" and start[1:2] in _PICKLE_PROTOCOLS:
        kind = "a pickle"
    elif start.startswith(b"PK\x03\x04"):
        kind = "an archive of pickles, or another,"
    if kind is not None:
        raise ValueError(
            f"{path} is in truth {kind} which is never opened: it could run code. Ask for the "
            "weights in the format of the file's name"
        )


def _parse_header(path, text):
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(_broken(path, f"its header is not JSON ({cause(error)})")) from error
    if not isinstance(header, dict):
        raise ValueError(_broken(path, f"its header is not an object but {shown(header)}"))
    return header


def _without_duplicates(pairs):
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} stands in it twice")
        found[name] = value
    return found


def _file_tensor(path, name, entry, data_start, size, mapping):
    try:
        kind, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        is_sound = isinstance(kind, str)
        is_sound &= all(type(n) is int and n >= 0 for n in (*shape, start, stop))
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise ValueError(_broken(path, f"of the tensor {name} its header says {shown(entry)}"))
    if kind not in _DTYPES:
        raise ValueError(_broken(path, f"the tensor {name} is of the unknown type {shown(kind)}"))
    dtype = np.dtype(_DTYPES[kind])
    if stop < start or data_start + stop > size:
        problem = (
            f"the tensor {name} takes the bytes {data_start + start} to {data_start + stop} and "
            f"the file has {size}: it may be cut off"
        )
        raise ValueError(_broken(path, problem))
    count = 1
    for length in shape:  # Python's integers do not overflow
        count *= length
    if stop - start != count * dtype.itemsize:
        problem = (
            f"the tensor {name} takes {stop - start} bytes, and its shape {tuple(shape)} of "
            f"{kind} needs {count * dtype.itemsize}"
        )
        raise ValueError(_broken(path, problem))
    return FileTensor(name, path, dtype, tuple(shape), data_start + start, mapping)


def _check_in_a_row(path, tensors, start, size):
    """Tensors must fill the file, one after another."""
    before = "the header"
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.num_bytes)):
        if tensor.start != start:
            kind = "overlaps" if tensor.start < start else "does not follow"
            raise ValueError(_broken(path, f"the tensor {tensor.name} {kind} {before}"))
        start += tensor.num_bytes
        before = f"the tensor {tensor.name}"
    if start != size:
        raise ValueError(_broken(path, f"{size - start} bytes follow its last tensor"))


def _broken(path, problem):
    return f"{path} is no whole safetensors file: {problem}."
