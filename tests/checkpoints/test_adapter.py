"""An adapter as a file: what is in it, which models it fits, and files that are none."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tasks import ONE_LAYER, SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

OPTIONS = dict(rank=3, alpha=5, target=["query", "down"], use_dora=True)


def adapted_task(seed=0, **options):
    """A task whose adapters are far from zero."""
    lm = small_task()
    lm.enable_lora(**{**OPTIONS, **options})
    rng = np.random.default_rng(seed)
    for variable in lm.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))
    return lm


@pytest.fixture(scope="module")
def lm():
    return adapted_task()


@pytest.fixture(scope="module")
def logits(lm):
    return lm.predict(SMALL_ROWS, verbose=0)


@pytest.fixture
def file(lm, tmp_path):
    lm.save_adapter(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.once
def test_the_file(lm, file):
    """Keyed by path, small, and with the configuration beside it."""
    tensors = load_file(file)
    assert len(tensors) == 12 and file.stat().st_size < 20_000
    assert tensors["decoder/layer_0/mlp/down/lora_a"].shape == (36, 3)
    assert tensors["encoder/layer_0/attention/query/lora_b"].shape == (3, 48)
    assert tensors["encoder/layer_0/attention/query/magnitude"].shape == (48,)
    with safe_open(file, "numpy") as stored:
        config = json.loads(stored.metadata()["config"])
    assert config["format"] == "keras_t5gemma2.lora" and config["version"] == 1
    assert {key: config[key] for key in OPTIONS} == OPTIONS
    assert lm.adapters == {"default": {k: config[k] for k in lm.adapters["default"]}}


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_dim": 40}, "decoder/layer_0/mlp/down/lora_a must be .40, 3. and is .36, 3."),
        ({"layers": 2}, "has nothing for the model's decoder/layer_1/attention/query, decoder/la"),
        ({"layers": 0}, "the model has no decoder/layer_0/attention/query"),
    ],
    ids=["wider", "deeper", "no layers"],
)
def test_a_wrong_base_is_told_what_differs(file, changes, message):
    layers = ONE_LAYER.decoder.layers * changes.pop("layers", 1)
    decoder = dataclasses.replace(ONE_LAYER.decoder, layers=layers, **changes)
    lm = small_task(dataclasses.replace(ONE_LAYER, decoder=decoder))
    with pytest.raises(ValueError, match=message):
        lm.load_adapter(file)
    assert lm.adapters == {} and all(v.trainable for v in lm.weights)


@pytest.mark.once
def test_files_that_are_no_adapters(file, tmp_path):
    lm = small_task()
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        lm.load_adapter(tmp_path / "none.safetensors")
    tensors = load_file(file)
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="b.safetensors, without its mark"):
        lm.load_adapter(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="c.safetensors is no whole safetensors file"):
        lm.load_adapter(tmp_path / "c.safetensors")
    with safe_open(file, "numpy") as stored:
        metadata = stored.metadata()
    tensors.pop("decoder/layer_0/mlp/down/lora_b")
    save_file(tensors, tmp_path / "d.safetensors", metadata)
    with pytest.raises(ValueError, match="mlp/down/lora_b must be .3, 28. and is None"):
        lm.load_adapter(tmp_path / "d.safetensors")
    assert lm.adapters == {}


@pytest.mark.once
def test_an_expression_in_a_file_is_never_run(file, logits, tmp_path):
    """An earlier release wrote such targets; the tensors tell which layers are meant."""
    hostile = _with_metadata(file, tmp_path / "e.safetensors", target="(([a-z_0-9/]+)+)+X")
    lm = small_task()
    lm.load_adapter(hostile)
    np.testing.assert_allclose(lm.predict(SMALL_ROWS, verbose=0), logits, rtol=1e-5, atol=1e-5)
    assert isinstance(lm.adapters["default"]["target"], list)

    config = lm.get_config()
    config["adapters"]["configs"]["default"]["target"] = "(([a-z_0-9/]+)+)+X"
    with pytest.raises(ValueError, match="must describe a LoRA adapter: its `target` must be"):
        T5Gemma2Seq2SeqLM.from_config(config)


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": "3"}, "its `rank` must be an integer. Received: rank='3'"),
        ({"rank": 0}, "`rank` must be a positive integer"),
        ({"alpha": {}}, "its `alpha` must be a number"),
        ({"dropout": None}, "its `dropout` must be a number"),
        ({"target": [1]}, "its `target` must be"),
        ({"use_dora": "yes"}, "its `use_dora` must be true or false"),
        ({"version": "9" * 5000}, "must be of version 1"),
        ({"more": 1}, "its fields must be among rank, alpha"),
        ("[1, 2]", "metadata of .* must be an object"),
        ("[" * 100_000, "metadata of .* must be JSON"),
        ("{", "metadata of .* must be JSON"),
    ],
)
def test_bad_metadata_is_told(file, tmp_path, changes, message):
    path = tmp_path / "f.safetensors"
    if isinstance(changes, str):
        save_file(load_file(file), path, {"config": changes})
    else:
        _with_metadata(file, path, **changes)
    lm = small_task()
    with pytest.raises(ValueError, match=message) as caught:
        lm.load_adapter(path)
    assert len(str(caught.value)) < 1000 and lm.adapters == {}


@pytest.mark.once
def test_weights_of_integers_are_refused(file, tmp_path):
    tensors = load_file(file)
    tensors["decoder/layer_0/mlp/down/lora_b"] = np.ones((3, 28), "int8")
    with safe_open(file, "numpy") as stored:
        save_file(tensors, tmp_path / "g.safetensors", stored.metadata())
    with pytest.raises(ValueError, match="must be floats. Received: .*lora_b' of int8"):
        small_task().load_adapter(tmp_path / "g.safetensors")


def _with_metadata(file, path, **changes):
    """A copy of an adapter's file that says something else of itself."""
    with safe_open(file, "numpy") as stored:
        about = json.loads(stored.metadata()["config"])
    save_file(load_file(file), path, {"config": json.dumps({**about, **changes})})
    return path
