"""Presets, models and weights are written whole or not at all, and loaded whole or not at all."""

import pathlib
import types

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.checkpoints import saving

pytestmark = pytest.mark.once


def model():
    """A compiled model, whose optimizer has variables too."""
    found = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    found.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    found.optimizer.build(found.trainable_variables)
    return found


def values(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


# Presets


def test_a_preset_goes_to_its_place_when_all_is_written(tmp_path):
    place, seen = tmp_path / "preset", []
    place.mkdir()
    for name in ("a", "b1", "b2", "mine"):
        (place / name).write_text("old")

    def save(directory):
        pathlib.Path(directory, "a").write_text("new")
        seen.append((place / "a").read_text())

    def finish(directory, where):
        seen.append(((directory / "a").read_text(), where))

    saving.save_preset(save, place, ("b*",), finish)
    assert seen == ["old", ("new", place)]
    assert {path.name: path.read_text() for path in place.iterdir()} == {"a": "new", "mine": "old"}


def test_a_preset_that_cannot_be_finished_leaves_what_was_there(tmp_path):
    place = tmp_path / "preset"
    place.mkdir()
    (place / "a").write_text("old")

    def fail(directory, where):
        raise OSError("no room")

    def save(directory):
        pathlib.Path(directory, "a").write_text("new")

    for path in (place, tmp_path / "other"):
        with pytest.raises(OSError, match="no room"):
            saving.save_preset(save, path, ("a",), fail)
    assert [path.name for path in tmp_path.iterdir()] == ["preset"]
    assert (place / "a").read_text() == "old"


# Files


@pytest.mark.parametrize(
    ("write", "name"),
    [(saving.save_model, "a.keras"), (saving.save_weights, "a.weights.h5")],
)
def test_a_file_is_whole_or_as_it_was(write, name, tmp_path):
    path = tmp_path / name
    path.write_text("old")

    def half(temporary, *_, **__):
        pathlib.Path(temporary).write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(model(), half, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write(model(), lambda temporary, *_, **__: pathlib.Path(temporary).write_text("new"), path)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_single_file_here_is_left_to_keras(tmp_path):
    """Elsewhere, a directory, shards, and where Keras asks whether to go on."""
    there = tmp_path / "there.keras"
    there.touch()
    weights = tmp_path / "there.weights.h5"
    weights.touch()
    calls = []

    def note(path, *arguments, **_):
        calls.append((str(path), *arguments))

    saving.save_model(model(), note, "gs://bucket/a.keras")
    saving.save_model(model(), note, tmp_path / "a", zipped=False)
    saving.save_model(model(), note, there, overwrite=False)
    saving.save_weights(model(), note, "gs://bucket/a.weights.h5")
    saving.save_weights(model(), note, weights, overwrite=False)
    saving.save_weights(model(), note, tmp_path / "a.weights.json", max_shard_size=1)
    assert calls == [
        ("gs://bucket/a.keras", True, None),
        (str(tmp_path / "a"), True, False),
        (str(there), False, None),
        ("gs://bucket/a.weights.h5", True, None),
        (str(weights), False, None),
        (str(tmp_path / "a.weights.json"), True, 1),
    ]


# Loading


def test_a_load_that_fails_changes_nothing():
    lm = model()
    variables = [*lm.variables, *lm.optimizer.variables]
    before = values(variables)

    def load(path, error=None, filler=7.0):
        for variable in variables:
            variable.assign(ops.full(variable.shape, filler, dtype=variable.dtype))
        if error is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        saving.load_weights(lm, load, "file", KeyboardInterrupt())
    for value, wanted in zip(values(variables), before, strict=True):
        np.testing.assert_array_equal(value, wanted)
    lm.optimizer = None
    variables = lm.variables
    with pytest.raises(ValueError, match="file"):
        saving.load_weights(lm, load, "file", filler=np.nan)
    for value, wanted in zip(values(variables), before, strict=False):
        np.testing.assert_array_equal(value, wanted)
    saving.load_weights(lm, load, "file", filler=np.inf, allow_nonfinite=True)
    assert all(np.isinf(value).all() for value in values(variables))


# Adapters that stand in files of their own


def test_adapters_are_read_by_who_says_so():
    message = "has the adapters french, new in files of their own"
    saving.check_reads_adapters([])
    with pytest.raises(ValueError, match=message):
        saving.check_reads_adapters(["french", "new"])
    for preset in ("/a/directory", "hf://somebody/tuned"):
        with saving.reading_adapter_files(preset):
            saving.check_reads_adapters(["french", "new"])
            elsewhere = saving.reading_adapter_files("kaggle://a/b/keras/c")
            with elsewhere, pytest.raises(ValueError, match=message):
                saving.check_reads_adapters(["french", "new"])
            saving.check_reads_adapters(["french", "new"])
    with pytest.raises(ValueError, match=message):
        saving.check_reads_adapters(["french", "new"])


# Several processes


class Writes:
    """What writes down the variables that it has, by a method inside of another."""

    def __init__(self):
        self.variables = [keras.Variable(np.full(2, part, "float32")) for part in (1.0, 2.0)]
        self.written = []

    @saving.by_one_process
    def save(self, number):
        self.inner()
        return number

    @saving.by_one_process
    def inner(self):
        self.written += [float(value[0]) for value in values(self.variables)]


def test_one_process_writes_as_it_is():
    layer = Writes()
    assert layer.save(5) == 5 and layer.written == [1.0, 2.0]
    assert Writes.save.__name__ == "save"


@pytest.mark.parametrize("index", [0, 1])
def test_of_several_processes_the_first_writes_what_all_have(index, monkeypatch):
    layer, waited = Writes(), []
    own = [variable.value for variable in layer.variables]
    fake = types.SimpleNamespace(
        is_joint=lambda: True,
        index=lambda: index,
        is_whole=lambda value: value is own[0],
        whole=lambda value: ops.full((2,), 10.0) + value,
        wait=waited.append,
    )
    monkeypatch.setattr(saving, "processes", fake)
    assert layer.save(5) == (5 if index == 0 else None)
    assert layer.written == ([1.0, 12.0] if index == 0 else [])
    assert all(v.value is value for v, value in zip(layer.variables, own, strict=True))
    assert waited == ["saving"]
