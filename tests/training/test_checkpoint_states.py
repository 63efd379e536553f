"""Directories of states: which are whole, which is the newest, and what is the user's."""

import json
import shutil

import keras
import numpy as np
import pytest
from resumed_runs import new_task, run

from keras_t5gemma2 import TrainingCheckpoint
from keras_t5gemma2.training import checkpoint_states as states

pytestmark = pytest.mark.once
GOOD = {"epoch": 1, "step": 2, "seed": None, "random_states": None}


def make(directory, name, is_whole=True):
    path = directory / name
    path.mkdir()
    if is_whole:
        (path / states.STATE_FILE).write_text(json.dumps(GOOD))
    return path


def test_what_else_is_in_the_directory_is_the_users(tmp_path):
    """Copies, notes and links are neither read nor removed."""
    lm = new_task(is_lora=False)
    run(lm, [TrainingCheckpoint(tmp_path, delete_checkpoint=False)], epochs=1)
    (state,) = tmp_path.iterdir()
    others = [
        f"{state.name}_best",
        "epoch_best",
        ".epoch_notes",
        "epoch_1_step_2",
        "epoch_x_step_y",
    ]
    for name in others:
        shutil.copytree(state, tmp_path / name)
    killed = tmp_path / f".{state.name}.0123abcd"
    shutil.copytree(state, killed)
    run(new_task(is_lora=False), [TrainingCheckpoint(tmp_path, save_freq=2)], epochs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epoch": "1", "step": 0}', "[" * 10_000])
def test_a_damaged_state_is_an_error_with_its_path(tmp_path, text):
    run(new_task(is_lora=False), [TrainingCheckpoint(tmp_path, delete_checkpoint=False)], epochs=1)
    (state,) = tmp_path.iterdir()
    (state / "state.json").write_text(text)
    lm = new_task(is_lora=False)
    before = keras.ops.convert_to_numpy(lm.weights[0])
    with pytest.raises(ValueError, match=f"{state / 'state.json'}, which is damaged"):
        run(lm, [TrainingCheckpoint(tmp_path)])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(lm.weights[0]), before)
    assert state.is_dir()


def test_the_newest_is_the_furthest_whole_one(tmp_path):
    assert states.newest(tmp_path) is states.newest(tmp_path / "missing") is None
    make(tmp_path, "epoch_000001_step_000000900")
    late = make(tmp_path, "epoch_000010_step_000000002")
    make(tmp_path, "epoch_000002_step_000000999")
    make(tmp_path, "epoch_000011_step_000000000", is_whole=False)
    make(tmp_path, "epoch_99_step_99")
    assert states.newest(str(tmp_path)) == late
    assert states.place_of(late) == (10, 2)
    assert states.place_of(make(tmp_path, "epoch_1000000_step_1234567890")) == (1000000, 1234567890)
    assert len(states.whole_states(tmp_path)) == 4


def test_what_a_killed_process_left_is_found_and_nothing_else(tmp_path):
    unfinished = make(tmp_path, ".epoch_000001_step_000000900.0123abcd")
    emptied = make(tmp_path, "epoch_000001_step_000000901", is_whole=False)
    for name in ("epoch_000001_step_000000902", ".epoch_000001_step_000000900.xyz", "notes"):
        make(tmp_path, name)
    (tmp_path / "epoch_000001_step_000000903").write_text("a file")
    assert sorted(states.left_by_killed_processes(tmp_path)) == [unfinished, emptied]


def test_a_removed_state_is_gone_even_where_it_was_half_removed(tmp_path):
    for is_whole in (True, False):
        path = make(tmp_path, "epoch_000001_step_000000900", is_whole)
        states.remove_state(path)
        assert not path.exists()


@pytest.mark.parametrize(
    "changes",
    [{"epoch": -1}, {"step": 1.5}, {"seed": "1"}, {"random_states": {}}, {"epoch": True}],
    ids=str,
)
def test_a_state_has_the_kinds_of_values_that_it_was_written_with(tmp_path, changes):
    path = make(tmp_path, "epoch_000001_step_000000900")
    assert states.read_state(path) == GOOD
    (path / states.STATE_FILE).write_text(json.dumps({**GOOD, **changes}))
    with pytest.raises(ValueError, match="which is damaged. Remove its directory"):
        states.read_state(path)
