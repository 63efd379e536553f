"""Damaged `.keras` files: what this package reads of one is refused by its name and rule."""

import json
import zipfile

import keras
import pytest
from tasks import SMALL_ROWS, small_task

pytestmark = pytest.mark.once
ASSET = "assets/preprocessor/tokenizer/vocabulary.model"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The files inside of one of a trained task."""
    path = tmp_path_factory.mktemp("keras") / "task.keras"
    lm = small_task()
    lm.fit(SMALL_ROWS, verbose=0)
    lm.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def load(path, parts):
    with zipfile.ZipFile(path / "task.keras", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return keras.saving.load_model(path / "task.keras")


BACKBONE = ("config", "backbone", "config")
SIZES = (*BACKBONE, "config")
PREPROCESSOR = ("config", "preprocessor", "config")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((*SIZES, "vocabulary_size"), 10**12, "`config.config.vocabulary_size` of .*=1000000000"),
        ((*SIZES, "vocabulary_size"), "x", "config.vocabulary_size` of a T5Gemma2Backbone .*='x'"),
        (SIZES, None, "`config.config` of a T5Gemma2Backbone must be an object .*: None"),
        (SIZES, [], r"`config.config` of a T5Gemma2Backbone must be an object .*: \[\]"),
        ((*SIZES, "encoder"), 3, "`config.config.encoder` of .* must be an object .*: 3"),
        ((*SIZES, "encoder", "layers"), [{}], r"encoder.layers\[0\]` of .* must hold num_heads"),
        ((*SIZES, "encoder", "layers", 0, "rope_theta"), "x", "rope_theta='x'"),
        ((*BACKBONE, "quantized_layers"), 3, "config.quantized_layers` of .* an object .*: 3"),
        (("config", "backbone"), None, "`backbone` .* must describe a T5Gemma2Backbone"),
        (("config", "preprocessor"), 3, "`preprocessor` .* a T5Gemma2.* preprocessor=3"),
        (PREPROCESSOR, {}, "`tokenizer` .* must describe a T5Gemma2Tokenizer.* tokenizer=None"),
        (("config", "adapters"), 3, "`adapters` of .* must describe adapters"),
        (("config", "adapters"), {}, "`adapters` of .* must describe adapters: 'configs'"),
        (("config", "adapters"), {"configs": {"../a": {"rank": 2}}, "active": None}, "'../a'"),
        (("config", "adapters"), {"configs": {}, "active": "x"}, "only its own adapters.*'x'"),
        (("compile_config",), 3, "config of `compile` must be .*: 3. Load with `compile=False`"),
        (("compile_config", "state"), 3, "config of `compile` must be .* Load with `compile=Fal"),
    ],
)
def test_configs(parts, tmp_path, keys, value, message):
    content = part = json.loads(parts["config.json"])
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    with pytest.raises(ValueError, match=message):
        load(tmp_path, {**parts, "config.json": json.dumps(content)})


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, None], ids=["empty", "junk", "cut"])
def test_vocabularies(parts, tmp_path, data):
    data = parts[ASSET][:-3] if data is None else data
    with pytest.raises(ValueError, match="A tokenizer needs vocabulary.model, whole"):
        load(tmp_path, {**parts, ASSET: data})


def test_a_vocabulary_that_is_missing(parts, tmp_path):
    lm = load(tmp_path, {name: data for name, data in parts.items() if name != ASSET})
    with pytest.raises(ValueError, match="This tokenizer has no vocabulary yet"):
        lm.score(SMALL_ROWS)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
@pytest.mark.parametrize("kept", [None, 0, 100, 0.9])
def test_other_parts(parts, tmp_path, name, kept):
    """They are Keras's to read: an error, and no model."""
    rest = {other: data for other, data in parts.items() if other != name}
    if kept is not None:
        size = int(kept if kept >= 1 else kept * len(parts[name]))
        rest[name] = parts[name][:size]
    with pytest.raises((ValueError, OSError, KeyError)):
        load(tmp_path, rest)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_files_that_are_cut_off(parts, tmp_path, kept):
    load(tmp_path, parts)
    path = tmp_path / "task.keras"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    with pytest.raises(ValueError, match="task.keras"):
        keras.saving.load_model(path)


def test_names_that_lead_elsewhere(parts, tmp_path):
    (tmp_path / "inside").mkdir()
    load(tmp_path / "inside", {**parts, "../../evil": b"", "assets/../../../evil": b""})
    assert not list(tmp_path.glob("**/evil"))
    assert not (tmp_path.parent / "evil").exists()
