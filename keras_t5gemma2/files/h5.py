"""Weight files of Keras, single or in shards: what they hold at once, the values where they lie.

HDF5 can point at other files, and can promise more values than it stores. Keras writes neither:
each of its arrays lies in one piece in the file, and is mapped into memory like one of a
safetensors file. Anything else is refused.
"""

import itertools
import json
import mmap
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from keras_t5gemma2.files.disk import reserve, writing_h5
from keras_t5gemma2.files.safetensors import FileTensor, check_no_pickle, check_plain_name
from keras_t5gemma2.files.tensors import StoredTensor, list_names
from keras_t5gemma2.messages import cause, shown, shown_path

SINGLE_FILE = "model.weights.h5"
INDEX_FILE = "model.weights.json"

# Far more than any model has: a file that goes on longer goes round in circles.
_MOST_OBJECTS = 1_000_000
_MOST_LEVELS = 32
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_NONE: Mapping[str, Any] = types.MappingProxyType({})
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Array(NamedTuple):
    """An array to be written.

    Args:
        name: string, as `layers/dense/vars/0`.
        num_bytes: int.
        read: function without arguments that gives the values.
    """

    name: str
    num_bytes: int
    read: Callable[[], np.ndarray]


def read_h5(directory):
    """The arrays of the backbone in a preset directory: a dict of `FileTensor` by path.

    Args:
        directory: path of a directory with `model.weights.h5`, or with shards and
            `model.weights.json`.

    Raises:
        FileNotFoundError: there is neither in the directory.
        ValueError: a file is cut off or no HDF5 file, holds links or arrays that are not stored in
            one piece, or shards and index disagree.

    Example:

    >>> import tempfile
    >>> import keras
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    >>> directory = tempfile.mkdtemp()
    >>> model.save_weights(f"{directory}/model.weights.h5")
    >>> read_h5(directory)["layers/dense/vars/0"].shape
    (3, 5)
    """
    directory = pathlib.Path(directory)
    if (directory / SINGLE_FILE).is_file():
        return read_h5_file(directory / SINGLE_FILE)
    if (directory / INDEX_FILE).is_file():
        return _read_shards(directory)
    raise FileNotFoundError(
        f"The weights of a preset must be in {SINGLE_FILE}, or in shards with {INDEX_FILE}. "
        f"Received: directory={shown_path(directory)}, which has neither"
    )


def read_h5_file(path):
    """The arrays of one file: a dict of `FileTensor` by path, as `layers/dense/vars/0`.

    Raises:
        ValueError: as for `read_h5`.
    """
    import h5py

    path = pathlib.Path(path)
    with path.open("rb") as file:
        start = file.read(len(_SIGNATURE))
        check_no_pickle(path, start)
        # HDF5 also finds what stands behind a block of something else.
        if start != _SIGNATURE:
            raise ValueError(_broken(path, "it does not begin as one"))
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with h5py.File(path, "r") as file:
            tensors = [
                _file_tensor(path, name, dataset, mapping)
                for name, dataset in _datasets(path, file)
            ]
    # What h5py raises of a damaged file: the kind depends on where the damage is.
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(_broken(path, f"the library says {cause(error)!r}")) from error
    return {tensor.name: tensor for tensor in tensors}


def stored_tensors(directory, rows, found, integers=_NONE):
    """`StoredTensor` by variable path, of exactly the arrays that a model has.

    Args:
        directory: what errors call the preset.
        rows: list of (name of the array, path of the variable, layout).
        found: dict by name of `FileTensor` or `StoredTensor`.
        integers: dict of types by the paths of the variables that are integers, as "int8".

    Raises:
        ValueError: an array is missing or unexpected, or not of a float type or that of its
            integers.
    """
    check_names(directory, {name for name, _, _ in rows}, found)
    for name, path, _ in rows:
        if path in integers:
            _check_integers(found[name], integers[path])
        else:
            checked_float(found[name])
    return {
        path: StoredTensor(name, found[name].shape, found[name].read, found[name].release, layout)
        for name, path, layout in rows
    }


def check_names(directory, wanted, found):
    """Raises where `found` are not the `wanted` names."""
    problems = [
        f"{kind} ({len(names)}): {list_names(sorted(names))}"
        for kind, names in (("Missing", wanted - set(found)), ("Unexpected", set(found) - wanted))
        if names
    ]
    if problems:
        raise ValueError(
            f"The weights in {directory} must be those of the model in its config.json. "
            + ". ".join(problems)
        )


def checked_float(tensor):
    """The tensor, a `FileTensor` of a float type, or else an error."""
    if isinstance(tensor, FileTensor) and str(tensor.dtype) not in _FLOATS:
        raise ValueError(
            f"Weights must be of one of the types {', '.join(_FLOATS)}; in a quantized preset the "
            "`dtype` of config.json says which layers have integers. "
            f"Received: {tensor.name} of type {tensor.dtype} in {tensor.path}"
        )
    return tensor


def _check_integers(tensor, dtype):
    if str(tensor.dtype) != dtype:
        raise ValueError(
            f"Weights of a layer that config.json calls quantized must be of type {dtype}. "
            f"Received: {tensor.name} of type {tensor.dtype} in {tensor.path}"
        )


def write_h5(directory, arrays, max_shard_bytes=None):
    """Writes `model.weights.h5`, or shards and `model.weights.json`; one array is read at a time.

    Args:
        directory: `pathlib.Path` of a directory.
        arrays: list of `Array`. Those of one layer stand together, and come into one shard.
        max_shard_bytes: int. Where all arrays together are larger, shards are written, of which
            only one with a single larger layer is larger than this.
    """
    total = sum(array.num_bytes for array in arrays)
    if max_shard_bytes is None or total <= max_shard_bytes:
        _write_file(directory / SINGLE_FILE, arrays)
        return
    index = {}
    for number, shard in enumerate(_shards(arrays, max_shard_bytes)):
        name = f"model_{number:05}.weights.h5"
        _write_file(directory / name, shard)
        index.update({f"/{_layer(array)}": name for array in shard})
    about = {"metadata": {"total_size": total}, "weight_map": index}
    (directory / INDEX_FILE).write_text(json.dumps(about, indent=4), encoding="utf-8")


def _shards(arrays, max_bytes):
    """Lists of arrays that fit into one file each."""
    shard, size = [], 0
    for _, layer in itertools.groupby(arrays, _layer):
        layer = list(layer)
        num_bytes = sum(array.num_bytes for array in layer)
        if shard and size + num_bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard, size = shard + layer, size + num_bytes
    yield shard


def _layer(array):
    return array.name.rpartition("/")[0]


def _write_file(path, arrays):
    import h5py

    sizes = [array.num_bytes for array in arrays]
    with writing_h5(path, sizes), h5py.File(path, "w") as file:
        reserve()
        for array in arrays:
            values = array.read()
            dataset = file.create_dataset(array.name, data=values)
            if values.dtype == ml_dtypes.bfloat16:
                dataset.attrs["dtype"] = "bfloat16"  # HDF5 has no name for it


def _datasets(path, file):
    """(name, dataset) of each array of a file."""
    import h5py

    waiting = [(name, file, 1) for name in file]
    for count, (name, parent, level) in enumerate(waiting):
        if count > _MOST_OBJECTS or level > _MOST_LEVELS:
            raise ValueError(_broken(path, "its groups have no end"))
        part = name.rpartition("/")[2]
        if parent.get(part, getclass=True, getlink=True) is not h5py.HardLink:
            raise ValueError(_broken(path, f"{name} is a link, and may point anywhere"))
        found = parent[part]
        if isinstance(found, h5py.Group):
            waiting += [(f"{name}/{child}", found, level + 1) for child in found]
        elif isinstance(found, h5py.Dataset):
            yield name, found
        else:
            raise ValueError(_broken(path, f"{name} is no array and no group"))


def _file_tensor(path, name, dataset, mapping):
    import h5py

    is_plain = not dataset.is_virtual and not dataset.external and dataset.shape is not None
    is_plain &= dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    start = dataset.id.get_offset()
    if not is_plain or start is None:
        problem = f"the values of {name} are not in one piece in it. Save it again with Keras"
        raise ValueError(_broken(path, problem))
    dtype = np.dtype(dataset.dtype)
    if dataset.attrs.get("dtype") == "bfloat16" and dtype.itemsize == 2:
        dtype = np.dtype(ml_dtypes.bfloat16)
    tensor = FileTensor(name, path, dtype, tuple(dataset.shape), start, mapping)
    size = dtype.itemsize
    for length in tensor.shape:  # Python's integers do not overflow
        size *= length
    if start + size > len(mapping):
        problem = (
            f"{name} takes the bytes {start} to {start + size} and the file has {len(mapping)}: it "
            "may be cut off"
        )
        raise ValueError(_broken(path, problem))
    return tensor


def _read_shards(directory):
    shards = {}
    for file in _shard_names(directory / INDEX_FILE):
        if not (directory / file).is_file():
            raise ValueError(
                f"{directory / INDEX_FILE} names a shard that is not there: {shown(file)}"
            )
        for name, tensor in read_h5_file(directory / file).items():
            if name in shards:
                raise ValueError(
                    f"{name} is in two shards of {directory}: {shown(shards[name].path.name)} and "
                    f"{shown(file)}"
                )
            shards[name] = tensor
    return shards


def _shard_names(path):
    """The shards that an index names, which are plain names of files beside it."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        lists = [names if isinstance(names, list) else [names] for names in files]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON with a `weight_map` of file names") from error
    names = [name for names in lists for name in names]
    for name in names:
        check_plain_name(path, name)
    return sorted(set(names))


def _broken(path, problem):
    return f"{path} is no whole weight file of Keras: {problem}."
