"""Weight files of Keras: written whole or in shards, read where they lie."""

import json

import h5py
import keras
import numpy as np
import pytest

from keras_t5gemma2.files.h5 import (
    Array,
    check_names,
    checked_float,
    read_h5,
    read_h5_file,
    stored_tensors,
    write_h5,
)
from keras_t5gemma2.files.layout import AS_IS, LINEAR
from keras_t5gemma2.files.safetensors import FileTensor
from keras_t5gemma2.files.tensors import StoredTensor

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", ["../a.h5", "/etc/passwd", "x/a.h5", "a\0", "..", "", 3, ["../a"]])
def test_an_h5_index_with_a_path(tmp_path, name):
    index = {"weight_map": {"/layers/a/vars": name}}
    (tmp_path / "model.weights.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name shards by the plain names"):
        read_h5(tmp_path)


def test_h5_shards_that_disagree(tmp_path):
    names = ["a.weights.h5", "b.weights.h5"]
    index = {"weight_map": {"/x/vars": names, "/y/vars": "c.weights.h5"}}
    (tmp_path / "model.weights.json").write_text(json.dumps(index))
    for name in names:
        with h5py.File(tmp_path / name, "w") as file:
            file["x/vars/0"] = np.ones(3)
    with pytest.raises(ValueError, match="x/vars/0 is in two shards .* 'a.weights.h5' and 'b.wei"):
        read_h5(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ValueError, match="names a shard that is not there: 'b.weights.h5'"):
        read_h5(tmp_path)
    for text in ("", "[]", "{}", '{"weight_map": 3}', "[" * 100_000):
        (tmp_path / "model.weights.json").write_text(text)
        with pytest.raises(ValueError, match="must be JSON with a `weight_map`"):
            read_h5(tmp_path)
    (tmp_path / "model.weights.json").unlink()
    with pytest.raises(FileNotFoundError, match="model.weights.h5, or in shards"):
        read_h5(tmp_path)


def arrays(**values):
    """`Array`s by name; `__` stands for a slash."""
    return [
        Array(name.replace("__", "/"), value.nbytes, lambda value=value: value)
        for name, value in values.items()
    ]


def test_what_is_written_is_read_and_keras_reads_it(tmp_path, rng):
    kernel = rng.normal(size=(3, 2)).astype("float32")
    bias = rng.normal(size=2).astype("float32")
    named = {"layers__dense__vars__0": kernel, "layers__dense__vars__1": bias}
    write_h5(tmp_path, arrays(**named))
    assert [path.name for path in tmp_path.iterdir()] == ["model.weights.h5"]
    found = read_h5(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {
        "layers/dense/vars/0": (3, 2),
        "layers/dense/vars/1": (2,),
    }
    np.testing.assert_array_equal(found["layers/dense/vars/0"].read(), kernel)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.weights[1]), bias)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8"])
def test_dtypes_come_back_bit_for_bit(dtype, tmp_path):
    values = np.arange(-3, 4).astype(dtype)
    write_h5(tmp_path, arrays(a__vars__0=values))
    (tensor,) = read_h5(tmp_path).values()
    assert tensor.dtype == values.dtype and tensor.read().tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("largest", "shards"),
    [(40, None), (39, ["ab", "c"]), (24, ["ab", "c"]), (23, ["a", "b", "c"]), (1, ["a", "b", "c"])],
)
def test_shards_hold_whole_layers(largest, shards, tmp_path):
    """Of 16, 8 and 16 bytes."""
    one = np.ones(2, "float32")
    named = {"a__vars__0": one, "a__vars__1": one, "b__vars__0": one}
    write_h5(tmp_path, arrays(**named, c__vars__0=np.ones(4, "float32")), largest)
    files = sorted(path.name for path in tmp_path.glob("*.h5"))
    if shards is None:
        assert files == ["model.weights.h5"]
        return
    assert files == [f"model_{i:05}.weights.h5" for i in range(len(shards))]
    layers = [sorted({name[0] for name in read_h5_file(tmp_path / file)}) for file in files]
    assert ["".join(names) for names in layers] == shards
    index = json.loads((tmp_path / "model.weights.json").read_text())
    assert index["metadata"]["total_size"] == 40
    assert set(index["weight_map"]) == {"/a/vars", "/b/vars", "/c/vars"}
    assert sorted(read_h5(tmp_path)) == ["a/vars/0", "a/vars/1", "b/vars/0", "c/vars/0"]


def test_values_are_read_where_they_lie(tmp_path):
    write_h5(tmp_path, arrays(a__vars__0=np.arange(5.0)))
    (tensor,) = read_h5(tmp_path).values()
    view = tensor.read()
    assert not view.flags.owndata and not view.flags.writeable
    data = (tmp_path / "model.weights.h5").read_bytes()
    assert data[tensor.start :][: tensor.num_bytes] == np.arange(5.0).tobytes()


def test_tensors_are_named_by_the_paths_of_variables(tmp_path):
    named = {"a__vars__0": np.ones((2, 3), "float32"), "b__vars__0": np.ones(2, "int8")}
    write_h5(tmp_path, arrays(**named))
    found = read_h5(tmp_path)
    rows = [("a/vars/0", "dense/kernel", LINEAR), ("b/vars/0", "dense/codes", AS_IS)]
    tensors = stored_tensors("here", rows, found, {"dense/codes": "int8"})
    kernel = tensors["dense/kernel"]
    assert (kernel.name, kernel.shape, kernel.layout) == ("a/vars/0", (2, 3), LINEAR)
    np.testing.assert_array_equal(tensors["dense/codes"].read(), [1, 1])
    with pytest.raises(ValueError, match="must be of type uint8. Received: b/vars/0 of type int8"):
        stored_tensors("here", rows, found, {"dense/codes": "uint8"})
    with pytest.raises(ValueError, match="a quantized preset .* Received: b/vars/0 of type int8"):
        stored_tensors("here", rows, found)
    wrong = [("a/vars/0", "a", AS_IS), ("c/vars/0", "c", AS_IS)]
    message = r"here must be .*Missing \(1\): c/vars/0. Unexpected \(1\): b/vars/0"
    with pytest.raises(ValueError, match=message):
        stored_tensors("here", wrong, found)


def test_float_types():
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        tensor = FileTensor("a", "file", np.dtype(dtype), (2,), 0, None)
        assert checked_float(tensor) is tensor
    with pytest.raises(ValueError, match="Received: a of type int32 in file"):
        checked_float(FileTensor("a", "file", np.dtype("int32"), (2,), 0, None))
    other = StoredTensor("a", (2,), lambda: np.ones(2))  # whose dtype nobody knows yet
    assert checked_float(other) is other


def test_names_that_are_not_the_wanted_ones():
    check_names("here", {"a"}, {"a": 1})
    with pytest.raises(ValueError, match=r"config.json. Missing \(2\): a, b$"):
        check_names("here", {"b", "a"}, {})


def test_a_file_that_begins_with_something_else(tmp_path):
    """HDF5 would find what stands behind it."""
    with h5py.File(tmp_path / "model.weights.h5", "w", userblock_size=512) as file:
        file["a/vars/0"] = np.ones(3)
    with pytest.raises(ValueError, match="model.weights.h5 is no whole .* does not begin as one"):
        read_h5(tmp_path)
