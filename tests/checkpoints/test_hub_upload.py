"""A task as a repository of the hub: what is uploaded, what stays there, what is refused."""

import pathlib

import huggingface_hub
import pytest
from huggingface_hub import errors
from tasks import small_task

from keras_t5gemma2.checkpoints.cards import GEMMA_NOTICE

pytestmark = pytest.mark.once


def gemma_task():
    lm = small_task()
    lm.backbone.source = "google/t5gemma-2-270m-270m"
    return lm


class _Hub:
    """As much of the hub as an upload needs."""

    def __init__(self, monkeypatch, readme=None, refuses=None):
        self.calls, self.files, self.readme, self.refuses = [], {}, readme, refuses
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self._download)

    def create_repo(self, **arguments):
        if self.refuses is not None:
            raise errors.HfHubHTTPError("no", response=self.refuses)
        self.calls.append(arguments)

    def upload_folder(self, folder_path, **arguments):
        self.calls.append(arguments)
        paths = [path for path in pathlib.Path(folder_path).rglob("*") if path.is_file()]
        self.files = {str(path.relative_to(folder_path)): path.read_bytes() for path in paths}
        return "commit"

    def _download(self, repository, name):
        if self.readme is None:
            raise errors.LocalEntryNotFoundError("nothing there")
        return self.readme


def test_a_task_is_uploaded(monkeypatch):
    hub = _Hub(monkeypatch)
    lm = gemma_task()
    lm.enable_lora(2, target=["query"], name="french")
    assert lm.push_to_hub("me/french", private=True, commit_message="First") == "commit"
    create, upload = hub.calls
    assert create == {"repo_id": "me/french", "private": True, "exist_ok": True}
    assert (upload["repo_id"], upload["commit_message"]) == ("me/french", "First")
    assert upload["ignore_patterns"] == []
    assert "model*.weights.h5" in upload["delete_patterns"]
    needed = {"config.json", "task.json", "model.weights.h5", "adapters/french.safetensors"}
    assert needed | {"README.md", "NOTICE", "tokenizer.json"} <= set(hub.files)
    assert 'from_preset("hf://me/french")' in hub.files["README.md"].decode()
    assert hub.files["NOTICE"].decode() == f"{GEMMA_NOTICE}\n"


def test_a_readme_that_was_edited_on_the_hub_stays(monkeypatch, tmp_path):
    (tmp_path / "README.md").write_text("# My model")
    hub = _Hub(monkeypatch, readme=str(tmp_path / "README.md"))
    with pytest.warns(UserWarning, match="README.md of hf://me/french has been edited"):
        small_task().push_to_hub("me/french")
    assert hub.calls[-1]["ignore_patterns"] == ["README.md"]


def test_what_the_hub_refuses(monkeypatch):
    class Response:
        status_code, headers, request, text = 401, {}, None, ""

    _Hub(monkeypatch, refuses=Response())
    lm = small_task()
    with pytest.raises(PermissionError, match=r"hf://me/x cannot be written. Log in by `hf auth"):
        lm.push_to_hub("me/x")
    Response.status_code = 503
    with pytest.raises(ConnectionError, match="The hub said: 'no"):
        lm.push_to_hub("me/x")
    for name in ("hf://me/x", "a/b/c", "x" * 200, 5):
        with pytest.raises(ValueError, match="`repo_id` must have the form organization/name"):
            lm.push_to_hub(name)
