"""Safetensors files: read where they lie, and never trusted."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_t5gemma2.files.safetensors import read_safetensors, read_safetensors_file

pytestmark = pytest.mark.once

TENSORS = {
    "matrix": np.arange(15, dtype="float32").reshape(3, 5),
    "half": np.arange(7, dtype="float16"),
    "brain": np.array([[1.5, -2.0, 3e38]], ml_dtypes.bfloat16),
    "scalar": np.array(11.0),
    "none": np.zeros((0, 3), "float32"),
    "bytes": np.arange(3, dtype="uint8"),
}


def header_and_data(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_raw(path, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def shards(directory, parts, files=None):
    """Writes each dict of `parts` as a file `a`, `b`, ... and an index of them."""
    names = {}
    for letter, part in zip("abc", parts, strict=False):
        save_file(part, directory / f"{letter}.safetensors")
        names.update({name: f"{letter}.safetensors" for name in part})
    index = {"weight_map": {**names, **(files or {})}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def halves():
    names = list(TENSORS)
    return [{name: TENSORS[name] for name in part} for part in (names[:2], names[2:])]


def check(tensors):
    assert set(tensors) == set(TENSORS)
    for name, wanted in TENSORS.items():
        values = tensors[name].read()
        assert (values.dtype, values.shape) == (wanted.dtype, wanted.shape)
        assert (tensors[name].dtype, tensors[name].shape) == (wanted.dtype, wanted.shape)
        assert values.tobytes() == wanted.tobytes()


def test_single_file(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    check(read_safetensors(tmp_path))


def test_shards(tmp_path):
    shards(tmp_path, halves())
    check(read_safetensors(tmp_path))


def test_shards_may_be_links(tmp_path):
    """A cache of downloads keeps the files elsewhere and links to them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    shards(tmp_path / "blobs", halves())
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    check(read_safetensors(tmp_path / "snapshot"))


def test_odd_offsets(tmp_path):
    """Nothing says that values start at a multiple of their size."""
    path = tmp_path / "model.safetensors"
    header = {
        "bytes": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "matrix": {"dtype": "F32", "shape": [3, 5], "data_offsets": [3, 63]},
    }
    data = TENSORS["bytes"].tobytes() + TENSORS["matrix"].tobytes()
    write_raw(path, header, data)
    tensor = read_safetensors_file(path)["matrix"]
    np.testing.assert_array_equal(tensor.read(), TENSORS["matrix"])


def test_values_are_views_of_the_file_and_survive_release(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    tensor = read_safetensors(tmp_path)["matrix"]
    values = tensor.read()
    assert np.shares_memory(values, tensor.read())
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0] = 1
    tensor.release()
    np.testing.assert_array_equal(values, TENSORS["matrix"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dtype": "Q4"}, "matrix is of the unknown type 'Q4'"),
        ({"dtype": ["F32"]}, "of the tensor matrix its header says"),
        ({"shape": [3, 7]}, r"matrix takes 60 bytes, and its shape \(3, 7\) of F32 needs 84"),
        ({"shape": [2**40, 2**40]}, "matrix takes 60 bytes"),
        ({"shape": [3, -5]}, "of the tensor matrix its header says"),
        ({"shape": [3, 5.0]}, "of the tensor matrix its header says"),
        ({"shape": 15}, "of the tensor matrix its header says"),
        ({"data_offsets": [60, 0]}, "matrix takes the bytes"),
        ({"data_offsets": [0, 2**70]}, "matrix takes the bytes .* it may be cut off"),
        ({"data_offsets": [0]}, "of the tensor matrix its header says"),
        ({"data_offsets": None}, "of the tensor matrix its header says"),
    ],
)
def test_wrong_headers(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    save_file({name: TENSORS[name] for name in ("matrix", "bytes")}, path)
    header, data = header_and_data(path)
    assert header["matrix"]["data_offsets"] == [0, 60]
    header["matrix"].update(change)
    write_raw(path, header, data + bytes(1))
    with pytest.raises(ValueError, match=f"model.safetensors is no whole.*{message}"):
        read_safetensors(tmp_path)


def test_overlap(tmp_path):
    path = tmp_path / "model.safetensors"
    entry = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    write_raw(path, {"one": entry, "other": {**entry, "data_offsets": [2, 5]}}, bytes(5))
    with pytest.raises(ValueError, match="the tensor other overlaps the tensor one"):
        read_safetensors(tmp_path)


def test_gap_and_trailing_bytes(tmp_path):
    path = tmp_path / "model.safetensors"
    entry = {"dtype": "U8", "shape": [3], "data_offsets": [1, 4]}
    write_raw(path, {"one": entry}, bytes(4))
    with pytest.raises(ValueError, match="the tensor one does not follow the header"):
        read_safetensors(tmp_path)
    write_raw(path, {"one": {**entry, "data_offsets": [0, 3]}}, bytes(4))
    with pytest.raises(ValueError, match="1 bytes follow its last tensor"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 8, 30, -1])
def test_cut_off_files(tmp_path, size):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model.safetensors is no whole safetensors file"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize(
    "header, length, message",
    [
        (b"{}", 2**63, "its header is said to have 9223372036854775808 bytes and the file has 10"),
        (b"{", None, "its header is not JSON"),
        (b"\xff\xff", None, "its header is not JSON"),
        (b"[1]", None, r"its header is not an object but \[1\]"),
        (b'{"a": 1, "a": 2}', None, "a stands in it twice"),
        (b'{"a": 1}', None, "of the tensor a its header says 1"),
    ],
)
def test_headers_that_are_none(tmp_path, header, length, message):
    write_raw(tmp_path / "model.safetensors", header, b"", length)
    with pytest.raises(ValueError, match=message):
        read_safetensors(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/etc/passwd", "x/a.safetensors", "..\\a", "C:a", "..", "", 3]
)
def test_index_with_a_path(tmp_path, name):
    save_file(TENSORS, tmp_path / "a.safetensors")
    shards(tmp_path, halves(), {"matrix": name})
    with pytest.raises(ValueError, match="must name shards by the plain names"):
        read_safetensors(tmp_path)


def test_index_and_shards_disagree(tmp_path):
    shards(tmp_path, halves(), {"other": "c.safetensors"})
    with pytest.raises(ValueError, match=r"names a shard that is not there: 'c.safetensors'"):
        read_safetensors(tmp_path)
    shards(tmp_path, halves(), {"other": "a.safetensors"})
    with pytest.raises(ValueError, match=r"other is in 'a.safetensors', where it is not"):
        read_safetensors(tmp_path)
    shards(tmp_path, [*halves(), {"half": TENSORS["half"]}])
    with pytest.raises(ValueError, match=r"half is in two shards .* 'a.safetensors' and 'c.saf"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}'])
def test_index_that_is_none(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index.json must be JSON with a `weight_map`"):
        read_safetensors(tmp_path)


def test_other_formats(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"safetensors.*which holds pytorch_model.bin"):
        read_safetensors(tmp_path)
