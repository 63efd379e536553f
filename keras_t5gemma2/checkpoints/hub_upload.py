"""A task as a repository of the Hugging Face hub."""

import pathlib
import tempfile

from keras_t5gemma2.checkpoints.cards import README_FILE, may_write, write_card
from keras_t5gemma2.checkpoints.own.files import metrics_of, preset_card
from keras_t5gemma2.messages import shown


def push(task, repository, private, commit_message, replaces):
    """Saves a task as a preset and uploads it.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        repository: string, "organization/name".
        private: bool or `None`, whether a new repository is private.
        commit_message: string or `None`.
        replaces: glob patterns of files of an earlier upload, which go.

    Returns:
        What the hub says of the commit.
    """
    import huggingface_hub
    from huggingface_hub import errors

    _check_name(repository)
    api = huggingface_hub.HfApi()
    try:
        # Before the model is written, which may take long.
        api.create_repo(repo_id=repository, private=private, exist_ok=True)
        ignored = [] if _may_write_readme(repository) else [README_FILE]
        with tempfile.TemporaryDirectory() as parent:
            directory = pathlib.Path(parent, "preset")
            task.save_to_preset(directory)
            card = preset_card(f"hf://{repository}", task, metrics_of(task))
            write_card(directory, card)
            return api.upload_folder(
                repo_id=repository,
                folder_path=str(directory),
                commit_message=commit_message or "Upload a model of keras_t5gemma2",
                ignore_patterns=ignored,
                delete_patterns=list(replaces),
            )
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        kind = PermissionError if status in (401, 403) else ConnectionError
        raise kind(
            f"hf://{repository} cannot be written. Log in by `hf auth login` with a token that "
            f"may write to it, or set HF_TOKEN. The hub said: {shown(str(error), 300)}"
        ) from error


def _check_name(repository):
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(repository)
    except errors.HFValidationError as error:
        raise ValueError(
            "`repo_id` must have the form organization/name, without hf://. Received: "
            f"repo_id={shown(repository)}"
        ) from error


def _may_write_readme(repository):
    """Whether the repository has no README, or one that nobody has edited."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        path = huggingface_hub.hf_hub_download(repository, README_FILE)
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError):
        return True
    return may_write(pathlib.Path(path), f"{README_FILE} of hf://{repository}")
