"""Objects that a preset names where none belongs: none of them is made, imported or run."""

import functools
import json
import pathlib
import shutil
import sys

import keras
import keras_hub
import pytest
from tasks import small_task

from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2DenoisingPreprocessor,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)

pytestmark = pytest.mark.once
TRACE = "was_run"  # the file that harmful objects leave in the working directory


@keras.saving.register_keras_serializable("stranger")
class Harmful(keras.layers.Layer):
    """A class of the user's that leaves a file where it is made."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        pathlib.Path(TRACE).touch()


def _leaves_a_file(x):
    __import__("pathlib").Path("was_run").touch()
    return x


@functools.cache
def lambda_model():
    """JSON of a model that runs marshalled code where it is made."""
    # A lambda by its name alone: of a function Keras writes no code.
    _leaves_a_file.__name__ = "<lambda>"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(_leaves_a_file)])
    pathlib.Path(TRACE).unlink()
    return json.dumps(keras.saving.serialize_keras_object(model))


def _function(module, name):
    return _object(module, "function", name, name)


def _object(module, class_name, config, registered_name=None):
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": registered_name,
    }


_NAME = "import evil_package>Evil"
OBJECTS = {
    "lambda": lambda: json.loads(lambda_model()),
    "stranger": lambda: _object(None, "Harmful", {}, "stranger>Harmful"),
    "process": lambda: _object("subprocess", "Popen", {"args": ["touch", TRACE]}, "Popen"),
    "function": lambda: _function("os", "system"),
    "builtin": lambda: _function("builtins", "exec"),
    "download": lambda: _function("keras.utils", "get_file"),
    "tensor": lambda: _object("builtins", "__tensor__", {"value": [1.0], "dtype": "float32"}),
    "import": lambda: _object("evil_package", "Evil", {}, _NAME),
    "dense": lambda: _object("keras.layers", "Dense", {"units": 3}),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("presets") / "own"
    small_task().save_to_preset(path)
    return path


@pytest.fixture
def own(original, tmp_path, monkeypatch):
    """A copy to damage, in a working directory of its own with a package that must stay unread."""
    (tmp_path / "evil_package.py").write_text(f"import pathlib\npathlib.Path('{TRACE}').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield pathlib.Path(shutil.copytree(original, tmp_path / "own"))
    assert not (tmp_path / TRACE).exists()
    assert "evil_package" not in sys.modules


def put(directory, name, keys, value):
    path = directory / name
    content = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    if keys:
        part[keys[-1]] = value
    path.write_text(json.dumps(content if keys else value))


def test_the_objects_would_do_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lambda", "stranger"):
        keras.saving.deserialize_keras_object(OBJECTS[name](), safe_mode=False)
        (tmp_path / TRACE).unlink()


# Through this package ------------------------------------------------------------------------

_SIZES = ("config", "config")
REFUSED = [
    ("config.json", ()),
    ("config.json", ("config",)),
    ("config.json", _SIZES),
    ("config.json", (*_SIZES, "vocabulary_size")),
    ("config.json", (*_SIZES, "encoder")),
    ("config.json", (*_SIZES, "decoder", "layers", 0)),
    ("config.json", (*_SIZES, "decoder", "layers", 0, "rope_theta")),
    ("config.json", ("config", "quantized_layers")),
    ("task.json", ("config",)),
    ("task.json", ("config", "cache_dtype")),
    ("task.json", ("config", "adapters")),
    ("task.json", ("config", "surprise")),
    ("preprocessor.json", ()),
    ("preprocessor.json", ("config",)),
    ("preprocessor.json", ("config", "audio_converter")),
    ("preprocessor.json", ("config", "video_converter")),
    ("preprocessor.json", ("config", "tokens_per_image")),
    ("preprocessor.json", ("config", "truncate")),
    ("preprocessor.json", ("config", "config_file")),
    ("tokenizer.json", ()),
    ("tokenizer.json", ("config",)),
    ("tokenizer.json", ("config", "proto")),
    ("tokenizer.json", ("config", "config_file")),
]
# What a preset says in two places is read in one, and what no preset of the package has in none.
UNREAD = [
    ("config.json", ("config", "dtype")),
    ("config.json", ("compile_config",)),
    ("task.json", ()),
    ("task.json", ("config", "backbone")),
    ("task.json", ("config", "preprocessor")),
    ("task.json", ("build_config",)),
    ("task.json", ("compile_config",)),
    ("preprocessor.json", ("config", "tokenizer")),
    ("preprocessor.json", ("config", "dtype")),
    ("tokenizer.json", ("compile_config",)),
]
LOADERS = {
    "config.json": [T5Gemma2Backbone],
    "task.json": [],
    "preprocessor.json": [T5Gemma2Seq2SeqLMPreprocessor, T5Gemma2DenoisingPreprocessor],
    "tokenizer.json": [T5Gemma2Tokenizer, T5Gemma2Seq2SeqLMPreprocessor],
}


@pytest.fixture
def _unsafe():
    """As if `keras.config.enable_unsafe_deserialization` had been called."""
    with keras.src.saving.serialization_lib.SafeModeScope(False):
        yield


def _id(value):
    return ".".join(map(str, value)) if isinstance(value, tuple) else value


@pytest.mark.usefixtures("_unsafe")
@pytest.mark.parametrize(("name", "keys"), REFUSED, ids=_id)
def test_what_the_package_reads(own, name, keys):
    text = (own / name).read_text()
    # The settings of a task are looked at when its weights are read, which takes its time.
    for value in [*OBJECTS.values()][: 2 if name == "task.json" else None]:
        put(own, name, keys, value())
        for cls in (T5Gemma2Seq2SeqLM, *LOADERS[name]):
            with pytest.raises(ValueError, match="Received|describe|must hold") as caught:
                cls.from_preset(own)
            assert any(part in str(caught.value) for part in (name, *keys[-1:]))
            assert len(str(caught.value)) < 1500
        (own / name).write_text(text)


@pytest.mark.usefixtures("_unsafe")
@pytest.mark.parametrize(("name", "keys"), UNREAD, ids=_id)
def test_what_the_package_does_not_read(own, name, keys):
    for value in (OBJECTS["lambda"], OBJECTS["stranger"]):
        put(own, name, keys, value())
        lm = T5Gemma2Seq2SeqLM.from_preset(own)
        assert type(lm.backbone) is T5Gemma2Backbone
        assert type(lm.preprocessor) is T5Gemma2Seq2SeqLMPreprocessor
        assert type(lm.preprocessor.tokenizer) is T5Gemma2Tokenizer
        assert lm.backbone.dtype == "float32"


@pytest.mark.parametrize("file", ["../tokenizer.json", "/x.json", "a/b.json", "x", 3, ""])
@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor.json"])
def test_the_name_of_a_file_to_write(own, name, file):
    """A save would write to it, in whatever directory it names."""
    put(own, name, ("config", "config_file"), file)
    with pytest.raises(ValueError, match="`config_file` must be the plain name of a JSON file"):
        T5Gemma2Seq2SeqLM.from_preset(own)


# Through keras-hub ---------------------------------------------------------------------------


def _hub(name):
    return lambda path: getattr(keras_hub.models, name).from_preset(str(path))


BY_KERAS_HUB = [
    ("Seq2SeqLM", "task.json", "backbone"),
    ("Seq2SeqLM", "task.json", "preprocessor"),
    ("Seq2SeqLMPreprocessor", "preprocessor.json", "tokenizer"),
    ("Seq2SeqLMPreprocessor", "preprocessor.json", "image_converter"),
    ("Seq2SeqLMPreprocessor", "preprocessor.json", "audio_converter"),
    ("Seq2SeqLMPreprocessor", "preprocessor.json", "video_converter"),
    ("Seq2SeqLMPreprocessor", "preprocessor.json", "dtype"),
]


@pytest.mark.usefixtures("_unsafe")
@pytest.mark.parametrize(("loader", "name", "key"), BY_KERAS_HUB)
def test_what_keras_hub_would_make(own, loader, name, key):
    # Of several classes that are registered for a backbone, keras-hub takes any.
    rule = rf"`{key}` in the config of a \w+ must .*: nothing else that a file names is made"
    for kind, make in OBJECTS.items():
        put(own, name, ("config", key), make())
        if kind in ("function", "builtin", "download") and key == "backbone":
            continue  # keras-hub looks for a config inside of it first
        with pytest.raises(ValueError, match=rule) as caught:
            _hub(loader)(own)
        assert f"class_name={make()['class_name']!r}" in str(caught.value)


def test_a_known_class_in_the_place_of_another(own):
    """Names that are registered, with what Keras looks at before it looks for them."""
    fields = json.loads((own / "task.json").read_text())["config"]
    code = OBJECTS["lambda"]()["config"]["layers"][1]["config"]["function"]["config"]
    for change in ({"class_name": "__lambda__", "config": code}, {"class_name": "function"}):
        put(own, "task.json", ("config", "preprocessor"), {**fields["preprocessor"], **change})
        with pytest.raises(ValueError, match="`preprocessor` in .* describe a T5Gemma2"):
            _hub("Seq2SeqLM")(own)
    put(own, "task.json", ("config", "preprocessor"), fields["backbone"])
    with pytest.raises(ValueError, match="describe a T5Gemma2.*, .*'T5Gemma2Backbone'"):
        _hub("Seq2SeqLM")(own)


@pytest.mark.parametrize("key", ["backbone", "preprocessor"])
def test_a_part_without_a_config(own, key):
    """Keras makes all objects inside of it."""
    part = json.loads((own / "task.json").read_text())["config"][key]
    names = {name: part[name] for name in ("module", "class_name", "registered_name")}
    config = json.loads((own / "task.json").read_text())["config"]
    config[key] = {**names, "surprise": OBJECTS["stranger"]()}
    with pytest.raises(ValueError, match=f"`{key}` in the config of a T5Gemma2Seq2SeqLM must"):
        T5Gemma2Seq2SeqLM.from_config(config)


def test_another_preprocessor_of_keras_hub(own):
    """It would make the tokenizer that its config names without a look at it."""
    config = {"tokenizer": OBJECTS["stranger"]()}
    name = "GemmaCausalLMPreprocessor"
    foreign = _object("keras_hub.models", name, config, f"keras_hub>{name}")
    put(own, "task.json", ("config", "preprocessor"), foreign)
    with pytest.raises(ValueError, match=f"describe a T5Gemma2.*'{name}'"):
        _hub("Seq2SeqLM")(own)


def test_how_a_part_was_compiled(own):
    described = {"optimizer": OBJECTS["stranger"](), "loss": None}
    put(own, "task.json", ("config", "backbone", "compile_config"), described)
    assert isinstance(_hub("Seq2SeqLM")(own), T5Gemma2Seq2SeqLM)


@keras.saving.register_keras_serializable("mine")
class SmallBackbone(T5Gemma2Backbone):
    """Of a user's own, with other arguments."""

    def __init__(self, width, **kwargs):
        super().__init__(small_task().backbone.config, **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width}


@keras.saving.register_keras_serializable("mine")
class SmallLM(T5Gemma2Seq2SeqLM):
    backbone_cls = SmallBackbone  # else keras-hub may take this class for the package's own presets

    def __init__(self, width=3, **kwargs):
        super().__init__(SmallBackbone(width), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width}


def test_subclasses_with_arguments_of_their_own():
    assert SmallBackbone.from_config({"width": 3}).width == 3
    assert SmallLM.from_config(SmallLM(4).get_config()).width == 4


@pytest.mark.parametrize("name", ["config.json", "task.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["lambda", "process", "function", "builtin", "download", "import"])
def test_what_keras_hub_refuses(own, name, kind):
    loader = "Tokenizer" if name == "tokenizer.json" else "Seq2SeqLM"
    put(own, name, (), OBJECTS[kind]())
    with pytest.raises((ValueError, TypeError)):
        _hub(loader)(own)


def test_sound_presets_load_through_keras_hub(own):
    lm = _hub("Seq2SeqLM")(own)
    assert isinstance(lm, T5Gemma2Seq2SeqLM)
    assert isinstance(_hub("Tokenizer")(own), T5Gemma2Tokenizer)


@pytest.mark.usefixtures("_unsafe")
def test_dtypes_in_configs(own):
    policies = {"decoder": keras.DTypePolicy("bfloat16")}
    policy = keras.dtype_policies.DTypePolicyMap(default_policy="float32", policy_map=policies)
    config = json.loads((own / "config.json").read_text())["config"]
    config["dtype"] = keras.dtype_policies.serialize(policy)
    assert T5Gemma2Backbone.from_config(config).dtype_policy.default_policy.name == "float32"
    inside = config["dtype"]["config"]["policy_map"]
    for make in OBJECTS.values():
        for place, key in ((inside, "decoder"), (config, "dtype")):
            before, place[key] = place[key], make()
            with pytest.raises(ValueError, match="`dtype` in .* must describe a dtype policy"):
                T5Gemma2Backbone.from_config(config)
            place[key] = before
