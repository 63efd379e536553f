"""Damaged and hostile files: one clear error of ours, nothing run, nothing left behind."""

import dataclasses
import json
import pathlib
import pickle
import shutil
import time
import traceback
import zipfile

import h5py
import numpy as np
import pytest
from keras_hub_models import SPM, hub_task
from reference_gemma3 import tiny_gemma3, write_gguf
from reference_models import save_reference, tiny_reference
from tasks import TOKENIZER, tiny_task
from tiny_models import SMALL_CONFIG, VISION
from tiny_vocabulary import tiny_tokenizer_json

import keras_t5gemma2
from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.files import gguf as gguf_module
from keras_t5gemma2.model import loading
from keras_t5gemma2.vocabulary.sentencepiece_model import read_sentencepiece_model

pytestmark = pytest.mark.once
PACKAGE = pathlib.Path(keras_t5gemma2.__file__).parent
FORMATS = ["reference", "own", "keras_hub"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One small directory of each format, with all the files that it may have."""
    found = {name: tmp_path_factory.mktemp(name) for name in FORMATS}
    sizes = {"vocab_size": TOKENIZER.vocabulary_size()}
    save_reference(tiny_reference(text=sizes), found["reference"])
    tiny_tokenizer_json(found["reference"] / "tokenizer.json")
    images = {
        "size": {"height": 28, "width": 28},
        "image_mean": [0.5, 0.5, 0.5],
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 20,
        "pan_and_scan_max_num_crops": 2,
        "pan_and_scan_min_ratio_to_activate": 1.5,
    }
    processor = {"image_processor": images, "image_seq_length": 4}
    (found["reference"] / "processor_config.json").write_text(json.dumps(processor))
    tiny_task(config=dataclasses.replace(SMALL_CONFIG, vision=VISION)).save_to_preset(found["own"])
    hub_task(vision=False).save_to_preset(str(found["keras_hub"]))
    return found


@pytest.fixture(params=FORMATS)
def directory(request, originals, tmp_path):
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(originals[request.param], tmp_path / request.param))


@pytest.fixture
def own(originals, tmp_path):
    return pathlib.Path(shutil.copytree(originals["own"], tmp_path / "own"))


def weight_file(directory):
    return next(path for path in directory.iterdir() if path.suffix in (".h5", ".safetensors"))


def load(directory):
    return T5Gemma2Seq2SeqLM.from_preset(directory)


class Harmful:
    """What leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


# Weights


def test_a_pickle_in_place_of_the_weights(directory, tmp_path):
    path, trace = weight_file(directory), tmp_path / "was_run"
    path.write_bytes(pickle.dumps(Harmful(trace)))
    with pytest.raises(ValueError, match=f"{path.name} is in truth a pickle which is never opened"):
        load(directory)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Harmful(trace)))
    with pytest.raises(ValueError, match=f"{path.name} is in truth an archive of pickles"):
        load(directory)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Harmful(trace)))
    assert trace.exists()  # it would have been


@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.999])
def test_weights_that_are_cut_off(directory, kept):
    path = weight_file(directory)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=f"{path.name} is no whole"):
        load(directory)


def _external_link(file, name):
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_link(file, name):
    file[name] = h5py.SoftLink("/layers")


def _external_values(file, name):
    file.create_dataset(name, (8,), "float32", external=[("/etc/passwd", 0, 32)])


def _virtual_values(file, name):
    layout = h5py.VirtualLayout((8,), "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (8,))
    file.create_virtual_dataset(name, layout)


def _promised_values(file, name):
    """Terabytes, of which not one is stored."""
    file.create_dataset(name, (1 << 20, 1 << 20), "float32", chunks=(1 << 10, 1 << 10))


def _unwritten_values(file, name):
    file.create_dataset(name, (1 << 20, 1 << 20), "float32")


def _circle(file, name):
    file[name] = file["layers"]


def _text(file, name):
    file[name] = "text"


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (_external_link, "vars/9 is a link, and may point anywhere"),
        (_soft_link, "vars/9 is a link, and may point anywhere"),
        (_external_values, "the values of .*vars/9 are not in one piece"),
        (_virtual_values, "the values of .*vars/9 are not in one piece"),
        (_promised_values, "the values of .*vars/9 are not in one piece"),
        (_unwritten_values, "the values of .*vars/9 are not in one piece"),
        (_circle, "its groups have no end"),
        (_text, r"Unexpected \(1\): layers/embedder/vars/9"),
    ],
)
def test_what_an_h5_file_should_not_hold(own, put, message):
    with h5py.File(own / "model.weights.h5", "r+") as file:
        put(file, "layers/embedder/vars/9")
    with pytest.raises(ValueError, match=message):
        load(own)


def test_arrays_of_other_types_and_shapes(own):
    path, name = own / "model.weights.h5", "layers/embedder/table/vars/0"
    with h5py.File(path, "r+") as file:
        values = file[name][:]
        del file[name]
        file[name] = values.astype("int8")
    with pytest.raises(ValueError, match=f"a quantized preset .* Received: {name} of type int8"):
        load(own)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values[1:]
    with pytest.raises(ValueError, match=rf"{name}, .* \(\d+, 28\) .* Received: shape"):
        load(own)


# Configs


def change_json(path, keys, value):
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))


_OWN = ("config", "config")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((*_OWN, "vocabulary_size"), 10**12, "config.config.vocabulary_size` of .*=1000000000000"),
        ((*_OWN, "vocabulary_size"), "101", "vocabulary_size='101'"),
        ((*_OWN, "vocabulary_size"), True, "vocabulary_size=True"),
        ((*_OWN, "encoder", "hidden_dim"), 1 << 24, "same `hidden_dim`"),
        ((*_OWN, "decoder", "mlp_dim"), 0, "mlp_dim=0"),
        ((*_OWN, "decoder", "layers"), [{}] * 10**5, "must be a list of 1 to 1000 layers"),
        ((*_OWN, "decoder", "layers"), [], "must be a list of 1 to 1000 layers"),
        ((*_OWN, "decoder", "layers", 0, "num_heads"), 1.5, r"layers\[0\].num_heads` .*=1.5"),
        ((*_OWN, "decoder", "layers", 0, "rope_theta"), float("nan"), "rope_theta=nan"),
        ((*_OWN, "decoder", "layers", 0, "window"), -1, "window=-1"),
        ((*_OWN, "decoder", "speed"), 3, "must be an object with hidden_dim, mlp_dim, layers"),
        ((*_OWN, "decoder"), {"hidden_dim": 28}, "must hold mlp_dim, layers, which are missing"),
        (_OWN, [], r"`config.config` of .* must be an object .* Received: \[\]"),
        (("config",), None, "`config` of .*config.json must be an object. Received: None"),
    ],
)
def test_configs_of_our_own(own, keys, value, message):
    change_json(own / "config.json", keys, value)
    with pytest.raises(ValueError, match=message):
        T5Gemma2Backbone.from_preset(own)


def test_sizes_that_no_machine_holds(directory):
    """Each size is possible, and all together are not: with and without weights."""
    path = directory / "config.json"
    text = path.read_text()
    for size in (28, 40):  # the width of the hidden states
        for end in (",", "\n", "}"):
            text = text.replace(f": {size}{end}", f": 4194304{end}")
    for size in (36, 44, 48, 56):  # of the MLP
        for end in (",", "\n", "}"):
            text = text.replace(f": {size}{end}", f": 4194304{end}")
    path.write_text(text)
    for load_weights in (False, True):
        with pytest.raises(ValueError, match=r"more than 1e\+11 parameters. Received: "):
            T5Gemma2Backbone.from_preset(directory, load_weights=load_weights, text_only=True)


def test_sizes_that_the_weights_do_not_have(own, monkeypatch):
    """Found before the room for any weight is taken: 1.9 GB for the table."""
    monkeypatch.setattr(loading, "_fill", None)
    change_json(own / "config.json", (*_OWN, "vocabulary_size"), 1 << 24)
    with pytest.raises(ValueError, match=r"must have the shape \(16777216, 28\)"):
        load(own)


@pytest.mark.parametrize("text", ["", "[]", "\xff", "[" * 100_000, "1" * 5_000, "null", "{}"])
def test_configs_that_are_none(directory, text):
    (directory / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.json"):
        load(directory)


@pytest.mark.parametrize("name", ["keras_hub>BertBackbone", "keras>Lambda", None, {}, ["a"]])
def test_presets_of_other_models(own, name):
    change_json(own / "config.json", ("registered_name",), name)
    with pytest.raises(ValueError, match=r"must be that of a T5Gemma 2.*registered_name="):
        load(own)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_processor", 3, "`image_processor` of .* must be an object"),
        ("image_seq_length", "x", "must be a positive integer. Received: image_seq_length=.x."),
        ("do_pan_and_scan", "yes", "must be true or false. Received: do_pan_and_scan=.yes."),
        ("pan_and_scan_max_num_crops", 0, "must be a positive integer"),
        ("pan_and_scan_min_crop_size", [], "must be a positive integer"),
        ("pan_and_scan_min_ratio_to_activate", "2", "must be a positive number"),
        ("rescale_factor", 10**400, "`rescale_factor` of the image processor"),
    ],
)
def test_image_processors_that_are_none(originals, tmp_path, key, value, message):
    directory = pathlib.Path(shutil.copytree(originals["reference"], tmp_path / "reference"))
    keys = ("image_processor",)[: key.startswith(("do", "pan", "rescale"))]
    change_json(directory / "processor_config.json", (*keys, key), value)
    with pytest.raises(ValueError, match=message):
        load(directory)


# What runs code, or reads elsewhere

LAMBDA = {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "f"}


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("tokenizer.json", ("registered_name",), "keras>Lambda", "'keras>Lambda'"),
        ("tokenizer.json", ("registered_name",), ["a"], "must be that of T5Gemma2Tokenizer"),
        ("tokenizer.json", ("config", "proto"), "/etc/passwd", "must not name a file to read"),
        ("image_converter.json", ("registered_name",), None, "of T5Gemma2ImageConverter"),
        ("preprocessor.json", ("registered_name",), "keras_t5gemma2>T5Gemma2Backbone", "Preproc"),
        ("preprocessor.json", ("config", "encoder_sequence_length"), LAMBDA, "does not describe a"),
        ("preprocessor.json", ("config", "surprise"), LAMBDA, "does not describe a T5Gemma2Seq"),
        (
            "task.json",
            ("config", "surprise"),
            LAMBDA,
            "must hold arguments of T5Gemma2Seq2SeqLM. Received: .surprise.",
        ),
        ("task.json", ("config", "cross_attention_cache"), LAMBDA, "cross_attention_cache"),
        ("task.json", ("config", "adapters"), {"configs": {"../../x": {"rank": 2}}}, "adapters"),
        ("task.json", ("config", "adapters"), {"configs": {}, "active": "x"}, "'x'"),
        ("task.json", ("config", "adapters"), [3], "must describe adapters"),
    ],
)
def test_settings_that_are_none(own, name, keys, value, message):
    change_json(own / name, keys, value)
    with pytest.raises(ValueError, match=message):
        T5Gemma2Seq2SeqLM.from_preset(own)


# Tokenizers


def test_tokenizers_with_missing_pieces(originals, tmp_path):
    directory = tmp_path / "reference"
    shutil.copytree(originals["reference"], directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())

    def refused(message, **changes):
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(ValueError, match=message):
            load(directory)

    without = [token for token in content["added_tokens"] if token["content"] != "<eos>"]
    vocabulary = {k: v for k, v in content["model"]["vocab"].items() if k != "<eos>"}
    model = {**content["model"], "vocab": vocabulary}
    refused("must have the ids from 0 on", added_tokens=without, model=model)
    renamed = {("<end>" if k == "<eos>" else k): v for k, v in content["model"]["vocab"].items()}
    model = {**content["model"], "vocab": renamed}
    refused("must hold `<bos>`, `<eos>` .* Missing: <eos>", added_tokens=without, model=model)
    for key in ("vocab", "merges"):
        part = {k: v for k, v in content["model"].items() if k != key}
        refused("which is no usable `tokenizer.json`", model=part)
    merges = [*content["model"]["merges"], ["not", "there"]]
    refused("no usable `tokenizer.json`", model={**content["model"], "merges": merges})


def test_a_sentencepiece_model_that_is_cut_off(originals, tmp_path):
    directory = pathlib.Path(shutil.copytree(originals["keras_hub"], tmp_path / "hub"))
    path = directory / "assets/tokenizer/vocabulary.spm"
    path.write_bytes(SPM.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no usable SentencePiece model: its end is missing"):
        load(directory)


def test_a_sentencepiece_model_of_one_endless_number():
    start = time.monotonic()
    with pytest.raises(ValueError, match="has more than 64 bits"):
        read_sentencepiece_model(b"\xff" * 1_000_000)
    assert time.monotonic() - start < 1


# GGUF


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return pathlib.Path(write_gguf(path, tiny_gemma3()))


@pytest.mark.slow
def test_gguf_files_at_random(gguf, tmp_path):
    """As `test_random_damage`: most of the damage is done to the header."""
    rng, path = np.random.default_rng(5), tmp_path / "model.gguf"
    data = gguf.read_bytes()
    outcomes = {"loaded": 0, "refused": 0}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        damaged = bytearray(data)
        place = int(rng.integers(min(len(data), 6000)))
        kind = ["flip", "blank", "large", "cut"][rng.integers(4)]
        if kind == "flip":
            damaged[place] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del damaged[place:]
        else:
            damaged[place : place + 4] = bytes(4) if kind == "blank" else b"\xff" * 4
        path.write_bytes(damaged)

        def load():
            return T5Gemma2Seq2SeqLM.from_gemma3(path, preprocessor=None)

        outcomes[outcome_of(load, f"{kind} at {place}")] += 1
    assert outcomes["refused"] > 0, outcomes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.alignment", 0, "its general.alignment is 0"),
        ("general.alignment", "x", "its general.alignment is 'x'"),
        ("gemma3.block_count", 1 << 31, "must be a whole number up to 1000"),
        ("gemma3.block_count", "x", "must be a positive number"),
        ("gemma3.attention.head_count", 0, "must be a positive number"),
        ("gemma3.rope.freq_base", float("nan"), "must be a positive number"),
    ],
)
def test_gguf_metadata_that_lies(gguf, monkeypatch, key, value, message):
    original = gguf_module._value

    def lying(header, library):
        name, found = original(header, library)
        return (name, value if name == key else found)

    if key == "general.alignment":
        monkeypatch.setattr(gguf_module, "_value", _first_is(original, key, value))
    else:
        monkeypatch.setattr(gguf_module, "_value", lying)
    with pytest.raises(ValueError, match=message):
        T5Gemma2Seq2SeqLM.from_gemma3(gguf, preprocessor=None)


def _first_is(original, key, value):
    """Reads metadata whose first entry that is not the architecture is another."""
    done = []

    def read(header, library):
        found = original(header, library)
        if not done and found[0] not in ("general.architecture",):
            done.append(found)
            return key, value
        return found

    return read


# Everything, at random


SECONDS = 4  # for each format
EVIL = (None, True, -1, 0, 2**63, 10**400, 1e308, "", "../../x", "\0", [], {}, [[]], "x" * 10_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "reference",
        "own",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("keras_hub", "embedded")),
    ],
)
def test_random_damage(originals, tmp_path, name):
    """A load succeeds, or an error is raised by a line of the package; the disk stays as it is."""
    embedded = keras_t5gemma2.presets["t5gemma2_tiny"]["directory"]
    original = pathlib.Path(embedded) if name == "embedded" else originals[name]
    rng = np.random.default_rng(FORMATS.index(name) if name in FORMATS else 99)
    outcomes = {"loaded": 0, "refused": 0}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        directory = tmp_path / name
        shutil.copytree(original, directory)
        done = damage(directory, rng)
        before = contents(directory)
        outcomes[outcome(directory, done)] += 1
        assert contents(directory) == before
        shutil.rmtree(directory)
    assert outcomes["refused"] > 0, outcomes


def outcome(directory, done):
    return outcome_of(lambda: load(directory), done)


def outcome_of(call, done):
    try:
        call()
        return "loaded"
    except (ValueError, OSError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        assert pathlib.Path(last.filename).is_relative_to(PACKAGE), f"{done}: {error!r}"
        assert len(str(error)) > 20, f"{done}: {error!r}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{done}: {error!r}") from error


def contents(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def damage(directory, rng):
    """Changes one file of a directory; gives what was done."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    if path.suffix == ".json" and rng.random() < 0.7:
        return path.name, *damage_json(path, rng)
    data = bytearray(path.read_bytes())
    kind = ["flip", "head", "cut", "blank", "double", "swap", "gone"][rng.integers(7)]
    # Most of a file of weights are weights: what matters stands at its beginning.
    place = int(rng.integers(min(len(data), 4096) if kind == "head" else len(data)))
    if kind in ("flip", "head"):
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[place:]
    elif kind == "blank":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif kind == "double":
        data[place:place] = data[place : place + 64]
    elif kind == "swap":
        data = files[rng.integers(len(files))].read_bytes()
    path.write_bytes(data)
    if kind == "gone":
        path.unlink()
    return path.name, kind, place


def damage_json(path, rng):
    """One value of a JSON file becomes another that nobody expects, or goes."""
    content = json.loads(path.read_text())
    part, keys = content, []
    while isinstance(part, dict | list) and part:
        parent, places = part, list(part) if isinstance(part, dict) else range(len(part))
        keys.append(places[rng.integers(len(places))])
        part = parent[keys[-1]]
        if rng.random() < 0.2:
            break
    value = EVIL[rng.integers(len(EVIL) + 1) - 1]
    if rng.random() < 0.2:
        del parent[keys[-1]]
        value = "deleted"
    else:
        parent[keys[-1]] = value
    path.write_text(json.dumps(content))
    return keys, str(value)[:40]
