"""Directories of sentence-transformers: what their modules say, and those that are refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_t5gemma2.checkpoints.transformers.sentence_transformers import read_settings

pytestmark = pytest.mark.once


def write(path, kinds, pooling=None, matrix=None):
    modules = []
    for number, kind in enumerate(kinds):
        place = f"{number}_{kind}" if number else ""
        modules.append({"type": f"sentence_transformers.models.{kind}", "path": place})
        (path / place).mkdir(exist_ok=True)
        if kind == "Pooling":
            values = pooling or {"pooling_mode_mean_tokens": True}
            (path / place / "config.json").write_text(json.dumps(values))
        if kind == "Dense":
            values = {"activation_function": "torch.nn.modules.linear.Identity"}
            (path / place / "config.json").write_text(json.dumps(values))
            save_file({"linear.weight": matrix}, path / place / "model.safetensors")
    (path / "modules.json").write_text(json.dumps(modules))


def test_settings(tmp_path):
    assert read_settings(tmp_path) == {}
    write(tmp_path, ["Transformer", "Pooling", "Dense"], {"pooling_mode": "cls"}, np.eye(3, 5))
    want = {"pooling": "first", "dimensions": 3, "normalize": False}
    assert read_settings(tmp_path) == want


@pytest.mark.parametrize(
    ("kinds", "options", "message"),
    [
        (["Pooling"], {}, "with the modules"),
        (["Transformer", "Normalize"], {}, "with the modules"),
        (["Transformer", "Pooling", "LSTM"], {}, "a module 'LSTM'"),
        (["Transformer", "Pooling"], {"pooling": {"pooling_mode": "max"}}, "a pooling of"),
        (["Transformer", "Pooling", "Dense"], {"matrix": np.ones((2, 3))}, "more than cut"),
    ],
)
def test_what_is_refused(kinds, options, message, tmp_path):
    write(tmp_path, kinds, **options)
    with pytest.raises(ValueError, match=f"A directory of sentence-transformers must.*{message}"):
        read_settings(tmp_path)
