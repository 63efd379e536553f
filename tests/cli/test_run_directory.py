"""The files of a run of training."""

import sys
import tomllib

import pytest

from keras_t5gemma2.cli.finetune import Request
from keras_t5gemma2.cli.run_directory import History, RunDirectory, read_history, settings_of

pytestmark = pytest.mark.once

REQUEST = Request("t5gemma2_tiny", "rows.csv", "run", columns={"a": "encoder_text"}, rank=3)


def test_settings_are_toml_with_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDirectory("run").begin(REQUEST, resume=False)
    settings = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert settings == settings_of(REQUEST)
    assert (settings["data"], settings["preset"]) == (str(tmp_path / "rows.csv"), "t5gemma2_tiny")
    assert settings["rank"] == 3 and settings["columns"] == {"a": "encoder_text"}
    assert not {"validation", "alpha", "target", "learning-rate"} & set(settings)


def test_a_directory_with_files_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="must be a new or empty directory. Received: "):
        RunDirectory(tmp_path).begin(REQUEST, resume=False)
    with pytest.raises(FileNotFoundError, match="without config.toml. Leave --resume out"):
        RunDirectory(tmp_path).begin(REQUEST, resume=True)
    (tmp_path / "config.toml").write_text("no")
    with pytest.raises(ValueError, match=r"config.toml' must be TOML. Received: "):
        RunDirectory(tmp_path).begin(REQUEST, resume=True)


def test_a_run_is_taken_up_with_its_options_but_for_more_epochs(tmp_path):
    RunDirectory(tmp_path / "run").begin(Request("a", "b", "c", epochs=1), resume=False)
    RunDirectory(tmp_path / "run").begin(Request("a", "b", "c", epochs=2), resume=True)
    with pytest.raises(ValueError, match=r"Received: seed = 5 in place of 0. Say `t5gemma2 finetu"):
        RunDirectory(tmp_path / "run").begin(Request("a", "b", "c", seed=5), resume=True)
    with pytest.raises(ValueError, match="Received: alpha = 2.0 in place of None"):
        RunDirectory(tmp_path / "run").begin(Request("a", "b", "c", alpha=2.0), resume=True)


def test_an_epoch_that_is_run_once_more_replaces_itself(tmp_path):
    path = tmp_path / "history.csv"
    for number, loss in [(0, 3.0), (1, 2.5)]:
        History(path).on_epoch_end(number, {"loss": loss})
    History(path).on_epoch_end(1, {"loss": 2.25, "val_loss": 4.0})
    assert read_history(path) == {1: {"loss": 3.0}, 2: {"loss": 2.25, "val_loss": 4.0}}
    History(path).on_epoch_end(0, {"loss": 1.0})
    assert read_history(path) == {1: {"loss": 1.0}}
    assert read_history(tmp_path / "none.csv") == {}


def test_curves(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path)
    directory.draw_curves()
    assert not (tmp_path / "curves.png").exists()  # there is nothing to draw yet
    history = directory.history_callback()
    for number in range(2):
        history.on_epoch_end(number, {"loss": 3.0 - number, "val_loss": 4.0, "val_chrf": 10.0})
    directory.draw_curves()
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match="There is no picture of the curves, which are in"):
        directory.draw_curves()


def test_braces_in_a_path_are_no_places(tmp_path):
    directory = RunDirectory(tmp_path / "{a}")
    directory.path.mkdir()
    path = directory.predictions_path().format(epoch=3)
    assert path == str(tmp_path / "{a}" / "predictions" / "epoch_3.jsonl")


def test_how_to_go_on(tmp_path):
    assert (
        "Interrupted: nothing is saved yet. Go on with: t5gemma2"
        in RunDirectory(tmp_path).how_to_go_on()
    )
