"""Safetensors files that are written: headers, shards, sizes and numbers that do not fit."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from keras_t5gemma2.files import safetensors_writer
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.files.safetensors_writer import (
    NewTensor,
    parse_size,
    shards_of,
    write_safetensors,
)

pytestmark = pytest.mark.once


def test_the_header_is_one_of_the_library(tmp_path):
    """The widest numbers first, at multiples of their width."""
    sizes = {"one": ("float16", (3,)), "two": ("float32", (5, 7)), "none": ("float32", (0, 2))}
    tensors = [
        NewTensor(name, shape, np.dtype(dtype), lambda shape=shape: np.ones(shape))
        for name, (dtype, shape) in sizes.items()
    ]
    write_safetensors(tmp_path, tensors, max_shard_size=1000)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        for name, (dtype, shape) in sizes.items():
            found = file.get_tensor(name)
            assert found.dtype == dtype and found.shape == shape and (found == 1).all()
    for tensor in read_safetensors(tmp_path).values():
        assert tensor.start % tensor.dtype.itemsize == 0


def tensor(name, *shape, dtype="float32", values=None):
    values = np.ones(shape, "float32") if values is None else np.asarray(values)
    return NewTensor(name, shape, np.dtype(dtype), lambda: values)


@pytest.mark.parametrize(
    ("largest", "files"),
    [
        (28, [["a", "b", "c"]]),
        (27, [["a", "b"], ["c"]]),
        (19, [["a"], ["b"], ["c"]]),
        (1, [["a"], ["b"], ["c"]]),
    ],
)
def test_tensors_are_dealt_out_in_their_order(largest, files):
    """Of 8, 12 and 8 bytes; one that is larger than a shard gets its own."""
    shards = shards_of([tensor("a", 2), tensor("b", 3), tensor("c", 2)], largest)
    assert [[one.name for one in part] for part in shards.values()] == files
    names = [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    assert list(shards) == (names if len(files) > 1 else ["model.safetensors"])


def test_nothing_is_one_empty_file(tmp_path):
    write_safetensors(tmp_path, [], max_shard_size=1)
    assert load_file(tmp_path / "model.safetensors") == {}


def test_shards_and_their_index(tmp_path):
    tensors = [tensor("a", 2, values=[1.0, 2.0]), tensor("b", 3), tensor("c", 0, 5)]
    write_safetensors(tmp_path, tensors, max_shard_size=12)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert index["weight_map"] == {"a": first, "b": second, "c": second}
    assert index["metadata"] == {"total_parameters": 5, "total_size": 20}
    np.testing.assert_array_equal(load_file(tmp_path / first)["a"], [1.0, 2.0])
    assert set(load_file(tmp_path / second)) == {"b", "c"}


def test_pieces_change_nothing(tmp_path, monkeypatch, rng):
    """A matrix in memory column by column, row by row into the file, and one number alone."""
    monkeypatch.setattr(safetensors_writer, "_BYTES_PER_PIECE", 30)
    values = np.asfortranarray(rng.normal(size=(7, 3)))
    tensors = [
        tensor("matrix", 7, 3, dtype="float32", values=values),
        tensor("number", dtype="float16", values=np.float64(0.1)),
    ]
    write_safetensors(tmp_path, tensors, max_shard_size=1000)
    found = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(found["matrix"], values.astype("float32"))
    assert found["number"].shape == () and found["number"] == np.float16(0.1)


def test_numbers_too_large_for_the_dtype(tmp_path):
    write_safetensors(tmp_path, [tensor("a", 2, dtype="float16", values=[65504.0, np.inf])], 100)
    assert load_file(tmp_path / "model.safetensors")["a"][1] == np.inf  # it was before
    too_large = tensor("a", 2, dtype="float16", values=[1.0, -7e4])
    with pytest.raises(ValueError, match=r"dtype='float16', and a holds 7e\+04"):
        write_safetensors(tmp_path, [too_large], 100)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        *(("5GB", 5 * 10**9), ("300 MB", 3 * 10**8), (" 2kb ", 2000), ("7B", 7), ("7", 7)),
        *((1000, 1000), ("0.5KB", 500), ("1.0004KB", 1000)),
    ],
)
def test_sizes(size, count):
    assert parse_size(size) == count


@pytest.mark.parametrize("size", [0, -5, True, "", "GB", "5 apples", "1e9", "5GiB", "0.4B", None])
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match="`max_shard_size` must be a number of bytes"):
        parse_size(size)
