"""Files that lie elsewhere: what is asked for, and what is said when they cannot be had."""

import pathlib
import types

import huggingface_hub
import kagglehub
import pytest
from huggingface_hub import errors

from keras_t5gemma2.files.downloads import (
    download_from_hub,
    download_from_kaggle,
    small_files_from_kaggle,
)

pytestmark = pytest.mark.once
HANDLE = "a/b/keras/c"


class _Response:
    """As much of a response as the hub's errors read."""

    headers = {}
    status_code = 401
    request = None
    text = ""


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (errors.GatedRepoError, PermissionError, "accept them, then run `hf auth login`"),
        (errors.RepositoryNotFoundError, FileNotFoundError, "no repository hf://some/thing"),
        (errors.RemoteEntryNotFoundError, FileNotFoundError, "has no config.json"),
        (errors.LocalEntryNotFoundError, ConnectionError, "not in the local cache"),
        (errors.OfflineModeIsEnabled, ConnectionError, "HF_HUB_OFFLINE"),
    ],
)
@pytest.mark.parametrize("logged_in", [False, True])
def test_what_the_hub_refuses_is_said(monkeypatch, raised, error, message, logged_in):
    def fail(repository, name):
        if issubclass(raised, errors.HfHubHTTPError):
            raise raised("refused", response=_Response())
        raise raised("refused")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token" if logged_in else None)
    with pytest.raises(error, match=message) as caught:
        download_from_hub("some/thing", "config.json")
    if error in (PermissionError, FileNotFoundError) and "has no" not in message:
        assert ("You are logged in" in str(caught.value)) == logged_in


def test_the_hub_is_asked_for_a_file_or_for_all_that_fit_patterns(monkeypatch):
    calls = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: calls.append((a, k)))
    download_from_hub("some/thing", "config.json")
    download_from_hub("some/thing", ("*.json", "a/*"))
    assert calls == [
        (("some/thing", "config.json"), {}),
        (("some/thing",), {"allow_patterns": ["*.json", "a/*"]}),
    ]
    for name in ("thing", "some/other/thing", "some/..", "so me/thing", "some/thing\n"):
        with pytest.raises(ValueError, match="form hf://organization/repository, of letters"):
            download_from_hub(name, "config.json")
    assert len(calls) == 2


def refusing(error):
    def fail(handle, path=None):
        raise error

    return fail


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (403, PermissionError, "accept them on its page at kaggle.com"),
        (404, FileNotFoundError, "kaggle://a/b/keras/c cannot be downloaded"),
        (500, ConnectionError, "kaggle://a/b/keras/c cannot be downloaded"),
        (None, ConnectionError, "Kaggle is not reached"),
    ],
)
def test_what_kaggle_refuses_is_said(monkeypatch, raised, error, message):
    refused = OSError("no route")
    if raised is not None:
        response = types.SimpleNamespace(status_code=raised)
        refused = kagglehub.exceptions.KaggleApiHTTPError("refused", response=response)
    monkeypatch.setattr(kagglehub, "model_download", refusing(refused))
    with pytest.raises(error, match=message):
        download_from_kaggle(HANDLE)


def test_a_file_that_a_model_of_kaggle_has_not(monkeypatch):
    """The library raises a `ValueError`, as it does for much else."""
    missing = ValueError("x.json is not present in the model files")
    monkeypatch.setattr(kagglehub, "model_download", refusing(missing))
    with pytest.raises(FileNotFoundError, match=f"kaggle://{HANDLE} has no x.json"):
        download_from_kaggle(HANDLE, "x.json")
    monkeypatch.setattr(kagglehub, "model_download", refusing(ValueError("another")))
    with pytest.raises(ValueError, match="another"):
        download_from_kaggle(HANDLE, "x.json")


@pytest.mark.parametrize("handle", ["a/b/c", "a/b/c/d/e", "a/b/c/d/1/2", "a/../c/d", "a/b/c/d?x"])
def test_handles_that_kaggle_has_not(handle):
    with pytest.raises(ValueError, match="form kaggle://organization/model/keras/variation"):
        download_from_kaggle(handle)


def test_everything_but_the_weights_is_got_as_far_as_it_is_there(tmp_path, monkeypatch):
    there, asked = {"config.json", "tokenizer.json", "assets/tokenizer/vocabulary.spm"}, []

    def download(handle, name):
        asked.append(name)
        if name not in there:
            raise ValueError(f"{name} is not present in the model files")
        return str(tmp_path / name)

    monkeypatch.setattr(kagglehub, "model_download", download)
    assert small_files_from_kaggle(f"{HANDLE}/2") == pathlib.Path(tmp_path)
    assert there < set(asked) and not any("weights" in name for name in asked)
    there.remove("config.json")
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        small_files_from_kaggle(HANDLE)
