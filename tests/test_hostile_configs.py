"""Nothing that a preset's configs name is run or imported, by our loader or by keras-hub's."""

import base64
import json
import marshal
import pathlib
import shutil
import sys

import keras_hub
import pytest
from small_tasks import small_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.once

_EVIL = """
import pathlib
trace = pathlib.Path(__file__).with_name("trace")
trace.write_text("imported")

class Evil:
    def __init__(self, **kwargs):
        trace.write_text("made")

    @classmethod
    def from_config(cls, config):
        return cls(**config)

def run(*args, **kwargs):
    trace.write_text("run")
"""


def lambda_layer():
    code = marshal.dumps((lambda x: pathlib.Path("trace").write_text("run")).__code__)
    return {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {
            "name": "l",
            "function": {
                "class_name": "__lambda__",
                "config": {
                    "code": base64.b64encode(code).decode(),
                    "defaults": None,
                    "closure": None,
                    "value": [base64.b64encode(code).decode(), None, None],
                },
            },
        },
        "registered_name": None,
    }


PAYLOADS = {
    "class": {"module": "evil_of_a_preset", "class_name": "Evil", "config": {}},
    "registered": {
        **{"module": "evil_of_a_preset", "class_name": "Evil", "config": {}},
        "registered_name": "evil>Evil",
    },
    "function": {"module": "evil_of_a_preset", "class_name": "function", "config": "run"},
    "system": {"module": "os", "class_name": "system", "config": {"command": "touch trace"}},
    "system function": {
        **{"module": "os", "class_name": "function", "config": "system"},
        "registered_name": "system",
    },
    "lambda": lambda_layer(),
    "bare lambda": lambda_layer()["config"]["function"],
}
FILES = ["config.json", "task.json", "preprocessor.json", "tokenizer.json"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "m"
    small_task().save_to_preset(path)
    return path


@pytest.fixture
def directory(original, tmp_path, monkeypatch):
    (tmp_path / "evil_of_a_preset.py").write_text(_EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield shutil.copytree(original, tmp_path / "m")
    sys.modules.pop("evil_of_a_preset", None)


def places(content, limit):
    """Paths of keys to put something at, from the top of a JSON object down."""
    found, level = [], [()]
    for _ in range(limit):
        below = []
        for keys in level:
            part = content
            for key in keys:
                part = part[key]
            if isinstance(part, dict):
                below += [(*keys, key) for key in part]
            elif isinstance(part, list) and part:
                below.append((*keys, 0))
        found += below
        level = below
    return found


def put(content, keys, value):
    content = json.loads(json.dumps(content))
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return content


LOADERS = {
    "ours": T5Gemma2Seq2SeqLM.from_preset,
    "our backbone": T5Gemma2Backbone.from_preset,
    "keras-hub's": keras_hub.models.Seq2SeqLM.from_preset,
    "keras-hub's backbone": keras_hub.models.Backbone.from_preset,
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_of_a_preset_is_run(directory, tmp_path, loader, payload):
    value, loaded, imported = PAYLOADS[payload], 0, []
    for name in FILES:
        content = json.loads((directory / name).read_text())
        spots = [*places(content, 3), ("config", "extra"), ("compile_config",), ("build_config",)]
        spots += [("compile_config", "optimizer")] if "compile_config" in content else []
        for keys in spots:
            (directory / name).write_text(json.dumps(put(content, keys, value)))
            try:
                LOADERS[loader](str(directory), load_weights=False)
                loaded += 1
            except (ValueError, TypeError, OSError, KeyError, AttributeError):
                pass
            if (tmp_path / "trace").exists():
                imported.append((name, keys, (tmp_path / "trace").read_text()))
                (tmp_path / "trace").unlink()
                sys.modules.pop("evil_of_a_preset", None)
        (directory / name).write_text(json.dumps(content))
    assert not imported
