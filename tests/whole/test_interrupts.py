"""What is interrupted anywhere is done or not done: no object is left between the two."""

import pathlib

import keras
import numpy as np
import pytest
from interrupts import interrupted, some_lines
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = [pytest.mark.once, pytest.mark.slow]  # minutes: each point runs all before it anew
POINTS = 4


def adapted(name="default", seed=1, rank=2, lm=None):
    """A task with an adapter that does something."""
    lm = lm or small_task()
    lm.enable_lora(rank=rank, target=["query", "up"], name=name)
    rng = np.random.default_rng(seed)
    for variable in lm.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return lm


def state(lm):
    """All that an interruption could leave between two states, numbers apart."""
    numbers = {v.path: keras.ops.convert_to_numpy(v) for v in lm.weights}
    layers = {
        path: (dict(x.active), sorted(x.adapters)) for path, x in lm.adapter_set.layers().items()
    }
    about = {
        "trainable": sorted(v.path for v in lm.trainable_variables),
        "adapters": lm.adapters,
        "active": lm.active_adapter,
        "is merged": lm.adapter_set.is_merged,
        "layers": layers,
        "quantized": lm.backbone.quantized_layers,
    }
    return about, numbers, np.asarray(lm.score(SMALL_ROWS))


def is_same(one, other, tolerance=1e-5):
    (about, numbers, scores), (about_2, numbers_2, scores_2) = one, other
    if about != about_2 or sorted(numbers) != sorted(numbers_2):
        return False
    close = [np.allclose(numbers[k], numbers_2[k], atol=tolerance) for k in numbers]
    return all(close) and np.allclose(scores, scores_2, atol=1e-3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    adapted(seed=5).save_adapter(folder / "a.safetensors")
    small_task(seed=7).save_weights(folder / "w.weights.h5")
    return folder


def merged():
    lm = adapted()
    lm.merge_adapter()
    return lm


def merged_int4():
    lm = adapted()
    lm.quantize("int4", filters="(query|up)$")
    lm.merge_adapter()
    return lm


def of_two():
    return adapted("second", lm=adapted())


CHANGES = {
    "enable_lora": (small_task, lambda lm, files: lm.enable_lora(2, target=["query"])),
    "a second enable_lora": (adapted, lambda lm, files: lm.enable_lora(2, name="b")),
    "load_adapter": (small_task, lambda lm, files: lm.load_adapter(files / "a.safetensors")),
    "load_adapter over one": (adapted, lambda lm, files: lm.load_adapter(files / "a.safetensors")),
    "load_weights": (small_task, lambda lm, files: lm.load_weights(files / "w.weights.h5")),
    "set_adapter": (of_two, lambda lm, files: lm.set_adapter({"default": 1, "second": 0.5})),
    "merge_adapter": (adapted, lambda lm, files: lm.merge_adapter()),
    "unmerge_adapter": (merged, lambda lm, files: lm.unmerge_adapter()),
    "unmerge_adapter int4": (merged_int4, lambda lm, files: lm.unmerge_adapter()),
    "keep_merged": (merged, lambda lm, files: lm.adapter_set.keep_merged()),
    "remove_adapter": (adapted, lambda lm, files: lm.remove_adapter("default")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_done_or_not_done(files, name):
    make, change = CHANGES[name]
    lm = make()
    before = state(lm)
    lines = some_lines(lambda: change(lm, files), POINTS)
    done = state(lm)
    assert not is_same(before, done)
    if "enable" in name:  # its numbers are drawn
        done = (done[0], {k: v for k, v in done[1].items() if "lora_a" not in k}, done[2])
    for line in lines:
        lm = make()
        optimizer = lm.optimizer
        state(lm)  # compiles what could be kept by mistake
        assert interrupted(lambda lm=lm: change(lm, files), line)
        found = state(lm)
        if is_same(found, before):
            assert lm.optimizer is optimizer or name == "remove_adapter"
            change(lm, files)
            found = state(lm)
        found = (found[0], {k: v for k, v in found[1].items() if k in done[1]}, found[2])
        assert is_same(found, done), f"line {line} of {lines}"


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantize_goes_on_where_it_was_interrupted(mode):
    lm = adapted()
    layers = sum(1 for _ in lm.adapter_set.layers()) + 1
    lines = some_lines(lambda: lm.quantize(mode), POINTS)
    done = state(lm)
    partly = 0
    for line in lines:
        lm = adapted()
        state(lm)
        assert interrupted(lambda lm=lm: lm.quantize(mode), line)
        count = len(lm.backbone.quantized_layers)
        partly += 0 < count < layers
        assert np.isfinite(state(lm)[2]).all()
        lm.fit(SMALL_ROWS, verbose=0)  # an adapter trains beside either
        for variable, value in zip(lm.trainable_variables, _adapter_values(), strict=True):
            variable.assign(value)
        if count < layers:
            lm.quantize(mode)
        assert is_same(state(lm), done), f"line {line} of {lines}"
    assert partly > 0


def _adapter_values():
    return [keras.ops.convert_to_numpy(v) for v in adapted().trainable_variables]


def whole_task():
    """A task with sizes and a tokenizer that other libraries have a place for."""
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.compile(optimizer="sgd", sampler="greedy")
    return lm


def _contents(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


WRITES = {
    "save_to_preset": lambda lm, path: lm.save_to_preset(path / "m"),
    "save_to_keras_hub_preset": lambda lm, path: lm.backbone.save_to_keras_hub_preset(path / "h"),
    "export_to_transformers": lambda lm, path: lm.export_to_transformers(path / "t"),
    "export": lambda lm, path: lm.export(
        path / "e", "torch", False, batch_size=1, encoder_length=8, decoder_length=8
    ),
    "save_adapter": lambda lm, path: lm.save_adapter(path / "a.safetensors"),
    "save_peft_adapter": lambda lm, path: lm.save_peft_adapter(path / "peft"),
    "save_weights": lambda lm, path: lm.save_weights(path / "w.weights.h5"),
    "save": lambda lm, path: lm.save(path / "t.keras"),
}


@pytest.mark.filterwarnings("ignore:keras-hub.s T5Gemma 2")
@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_is_there_whole_or_not(tmp_path, name):
    write = WRITES[name]
    if name == "export_to_transformers":
        lm = whole_task()
    else:
        lm = small_task() if "keras_hub" in name or name == "export" else adapted()
    for folder in ("import", "first"):  # the first call imports, whose lines do not come again
        (tmp_path / folder).mkdir()
    write(lm, tmp_path / "import")
    lines = some_lines(lambda: write(lm, tmp_path / "first"), POINTS)
    before = state(lm)
    names = {p.relative_to(tmp_path / "first") for p in (tmp_path / "first").rglob("*")}
    count = 0
    for line in lines:
        folder = tmp_path / str(line)
        folder.mkdir(exist_ok=True)
        count += interrupted(lambda folder=folder: write(lm, folder), line)
        found = {p.relative_to(folder) for p in folder.rglob("*")}
        is_whole = found <= names if name == "save_adapter" else found in (set(), names)
        assert is_whole, f"line {line} of {lines}"  # an adapter and its card are two files
        assert is_same(state(lm), before, 0)
        write(lm, folder)  # and again over what is there
    assert count >= POINTS // 2  # the second time fewer lines are run


SAVES = {
    "own": lambda lm, path: lm.save_to_preset(path),
    "transformers": lambda lm, path: lm.export_to_transformers(path),
    "keras_hub": lambda lm, path: lm.save_to_keras_hub_preset(path),
}


@pytest.mark.filterwarnings("ignore:keras-hub.s T5Gemma 2")
@pytest.mark.parametrize("name", SAVES)
def test_an_interrupted_load_leaves_nothing_that_disturbs_the_next(tmp_path, name):
    lm = small_task() if name == "own" else whole_task()
    SAVES[name](lm, tmp_path / "own")

    def load():
        return T5Gemma2Seq2SeqLM.from_preset(tmp_path / "own")

    whole = load()
    whole.compile(optimizer="sgd", sampler="greedy")
    before = state(whole)

    count = 0
    for line in some_lines(load, POINTS):
        count += interrupted(load, line)
        other = load()
        other.compile(optimizer="sgd", sampler="greedy")
        assert is_same(state(other), before, 0)
    assert count >= POINTS - 1
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == ["own"]
