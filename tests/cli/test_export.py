"""Files for runtimes without Keras, whose contents tests/export are about."""

import keras
import pytest
from command_line import error_of, parsed, printed

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.kernels.runtime import platforms
from t5gemma2_cli.export import FORMATS, PLATFORMS

SIZES = ("--batch-size", "1", "--encoder-length", "16", "--decoder-length", "8", "--images", "0")


@pytest.mark.slow
def test_the_backend_chooses_the_format(tmp_path, capsys):
    path = tmp_path / "exported"
    options = (path, *SIZES, "--text-only", "--json")
    (found,) = parsed(capsys, "export", "t5gemma2_tiny", *options)
    expected = "torch" if keras.config.backend() == "torch" else "tf_saved_model"
    files = [file for file in path.rglob("*") if file.is_file()]
    assert (found["path"], found["format"], found["files"]) == (str(path), expected, len(files))
    assert found["bytes"] == sum(file.stat().st_size for file in files)


@pytest.mark.slow
@pytest.mark.once
def test_sizes_are_those_of_export(tmp_path, monkeypatch, capsys):
    taken = {}

    def export(self, filepath, format, **options):
        taken.update(options, path=filepath, format=format)
        filepath.write_bytes(b"1234")

    monkeypatch.setattr(T5Gemma2Seq2SeqLM, "export", export)
    for_two = ("--platform", "tpu", "--platform", "cpu")
    printed(capsys, "export", "t5gemma2_tiny", tmp_path / "b", *SIZES, "--format", "jax", *for_two)
    assert (taken.pop("platforms"), taken["format"]) == (["tpu", "cpu"], "jax")
    printed(capsys, "export", "t5gemma2_tiny", tmp_path / "c", "--strings")
    assert taken.pop("strings") is True
    integers = ("--format", "onnx", "--quantize", "int8", "--accuracy-level", "4")
    printed(capsys, "export", "t5gemma2_tiny", tmp_path / "d", *SIZES, *integers)
    assert taken.pop("accuracy_level") == 4
    options = (tmp_path / "a.tflite", *SIZES, "--format", "litert", "--prompt-length", "2")
    assert "litert, 1 files, 0.0 MB" in printed(capsys, "export", "t5gemma2_tiny", *options)
    assert taken == {
        **{"path": tmp_path / "a.tflite", "format": "litert", "verbose": False, "batch_size": 1},
        **{"encoder_length": 16, "decoder_length": 8, "prompt_length": 2, "images": 0},
    }


@pytest.mark.once
def test_errors(tmp_path, capsys):
    error = error_of(capsys, "export", "t5gemma2_tiny", tmp_path)
    assert f"The target must not be there yet. Received: {tmp_path}" in error


@pytest.mark.once
def test_the_formats_are_those_of_the_package(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    with pytest.raises(ValueError) as found:
        lm.export(tmp_path / "a", "none")
    assert str(FORMATS) in str(found.value)
    assert PLATFORMS == platforms.PLATFORMS
