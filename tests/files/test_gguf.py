"""GGUF files: metadata and values are those of the library, and damage is told."""

import re
import sys

import gguf
import numpy as np
import pytest
from checkpoints import load_gemma3, load_gemma3_tokenizer
from reference_gemma3 import tiny_gemma3, write_gguf

from keras_t5gemma2.files.gguf import read_gguf

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def model():
    return tiny_gemma3()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_0", "Q4_0"])
def test_quantized_tensors_are_those_of_the_library(kind, model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model, kind)
    found = read_gguf(path).tensors
    wanted = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(found[name].read(), values, err_msg=name)
        assert found[name].shape == values.shape


def test_large_tensors_are_read_in_pieces(model, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", model, "Q8_0")
    whole = read_gguf(path).tensors["token_embd.weight"].read()
    monkeypatch.setattr("keras_t5gemma2.files.gguf._VALUES_AT_ONCE", 7 * 32)
    np.testing.assert_array_equal(read_gguf(path).tensors["token_embd.weight"].read(), whole)


def test_metadata_are_those_of_the_library(model, tmp_path):
    more = {
        "a.bool": True,
        "a.float": 0.1,
        "a.text": "Straße",
        "a.numbers": [3, 5],
        "a.list": ["<pad>", "▁", "hi"],
    }
    path = write_gguf(tmp_path / "model.gguf", model, metadata=more)
    wanted = {
        key: field.contents()
        for key, field in gguf.GGUFReader(path).fields.items()
        if not key.startswith("GGUF.")
    }
    found = read_gguf(path).metadata
    assert found.keys() == wanted.keys() >= more.keys()
    for key, value in wanted.items():
        single = np.float32 if isinstance(value, float) else lambda same: same
        np.testing.assert_array_equal(single(found[key]), single(value), err_msg=key)
    assert found["a.float"] == 0.1  # and not the 0.10000000149011612 that float32 makes of it
    assert found["gemma3.attention.layer_norm_rms_epsilon"] == 1e-6


def test_a_file_that_is_no_gguf_is_an_error(tmp_path):
    path = tmp_path / "model.gguf"
    for content in (b"PK\x03\x04 a zip file", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"begins with {content[:4]}")):
            load_gemma3(path)


def test_an_unknown_version_is_an_error(model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    content = path.read_bytes()
    # That of a big-endian file.
    path.write_bytes(content[:4] + (3).to_bytes(4, "big") + content[8:])
    with pytest.raises(ValueError, match=f"version {3 << 24}"):
        load_gemma3(path)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (5, "its header goes on to byte 8, and the file has 5"),
        (100, "its header goes on to byte"),
        (-1, r"the tensor output_norm\.weight goes on to byte"),
    ],
)
def test_a_file_that_is_cut_off_is_an_error(kept, message, model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", model)
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


@pytest.mark.parametrize(
    ("number", "message"),
    [(99, r"of shape \(7, 256\) and type 99"), (15, r"token_embd\.weight of type Q8_K")],
)
def test_an_unknown_type_of_tensor_is_an_error(number, message, model, tmp_path):
    sizes = {"hidden_size": 256, "vocab_size": 7}
    path = write_gguf(tmp_path / "model.gguf", tiny_gemma3(**sizes))
    entry = (
        b"token_embd.weight" + np.array([2], "<u4").tobytes() + np.array([256, 7], "<u8").tobytes()
    )
    content = path.read_bytes()
    assert content.count(entry + bytes(4)) == 1
    path.write_bytes(content.replace(entry + bytes(4), entry + bytes([number, 0, 0, 0])))
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


def test_without_the_gguf_package_the_error_says_what_to_install(model, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", model)
    monkeypatch.setitem(sys.modules, "gguf", None)
    for load in (load_gemma3, load_gemma3_tokenizer):
        with pytest.raises(ImportError, match=r'pip install "keras-t5gemma2\[gguf\]"'):
            load(path)
