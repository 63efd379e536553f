"""Tensors of files: their names in messages, their sizes, and progress."""

import sys

import keras
import numpy as np
import pytest

from keras_t5gemma2.files import tensors
from keras_t5gemma2.files.layout import AS_IS
from keras_t5gemma2.files.tensors import StoredTensor, list_names, num_bytes, progress_bar

pytestmark = pytest.mark.once


def test_long_lists_of_names_are_cut():
    names = [f"name_{i}" for i in range(12)]
    assert list_names(names[:2]) == "name_0, name_1"
    assert "name_9" in list_names(names[:10]) and "more" not in list_names(names[:10])
    cut = list_names(names)
    assert "name_9" in cut and "name_10" not in cut and "2 more" in cut


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [((3, 5), "float32", 60), ((3, 5), "bfloat16", 30), ((), "int8", 1), ((0, 4), "float16", 0)],
)
def test_the_size_of_a_variable(shape, dtype, size):
    assert (
        num_bytes(keras.Variable(np.zeros(shape, "float32"), dtype=dtype, trainable=False)) == size
    )


def test_a_tensor_has_nothing_to_release_by_itself():
    tensor = StoredTensor("a", (2,), lambda: np.ones(2))
    assert tensor.release() is None and tensor.layout is AS_IS


def test_progress_is_shown_of_what_takes_time(monkeypatch, capsys):
    progress_bar(tensors._BYTES_WORTH_A_BAR - 1)(50)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    progress = progress_bar(250_000_000)
    progress(250_000_000)
    assert "250/250" in capsys.readouterr().out
    keras.config.disable_interactive_logging()
    progress_bar(250_000_000)(250_000_000)
    assert capsys.readouterr().out == ""
