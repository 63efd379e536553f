"""Files of presets that lie elsewhere, and what is said when they cannot be had."""

import contextlib
import pathlib
import re

from keras_t5gemma2.messages import cause, shown

# What a preset may have beside its weights.
_KAGGLE_FILES = (
    *("task.json", "preprocessor.json", "tokenizer.json", "image_converter.json"),
    *("assets/tokenizer/vocabulary.spm", "assets/tokenizer/vocabulary.model"),
)


_NAME = r"\w[\w.-]{0,95}"
_REPOSITORY = re.compile(f"{_NAME}/{_NAME}", re.ASCII)
_KAGGLE_HANDLE = re.compile(rf"(models/)?({_NAME}/){{3}}{_NAME}(/[0-9]{{1,9}})?", re.ASCII)


def download_from_hub(repository, what):
    """The local path of one file of a repository, or of its directory for a tuple of patterns."""
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ValueError(
            "A handle must have the form hf://organization/repository, of letters, digits, `-`, "
            f"`_` and `.`. Received: {shown(f'hf://{repository}')}"
        )
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if isinstance(what, str):
            return huggingface_hub.hf_hub_download(repository, what)
        return huggingface_hub.snapshot_download(repository, allow_patterns=list(what))
    except errors.HFValidationError as error:
        raise ValueError(
            f"A handle must have the form hf://organization/repository. Received: "
            f"{shown(f'hf://{repository}')}"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"The weights of hf://{repository} are shared under terms that must be accepted: sign "
            f"in at https://huggingface.co/{repository} and accept them, then run `hf auth login` "
            f"here, or set HF_TOKEN. {_login_state()}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no repository hf://{repository}, or it is private. Check its name; for a "
            f"private one run `hf auth login`, or set HF_TOKEN. {_login_state()}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise FileNotFoundError(
            f"The repository hf://{repository} has no {what}: it is neither a Keras preset nor a "
            "checkpoint."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError) as error:
        raise ConnectionError(
            f"hf://{repository} cannot be downloaded: the hub is not reached, and the files are "
            "not in the local cache. Check the network, and that HF_HUB_OFFLINE is not set; or "
            "download the repository elsewhere and give its directory. The hub said: "
            f"{cause(error)}"
        ) from error


def _login_state():
    import huggingface_hub

    return "You are not logged in." if huggingface_hub.get_token() is None else "You are logged in."


def download_from_kaggle(handle, what=None):
    """The local path of one file of a Kaggle model, or of its directory with all files.

    Args:
        handle: string, organization/model/keras/variation, and a version after it or not.
        what: string, the name of a file; or `None`.
    """
    if not _KAGGLE_HANDLE.fullmatch(handle) or ".." in handle:
        raise ValueError(
            "A handle must have the form kaggle://organization/model/keras/variation, and may have "
            f"the number of a version after it. Received: {shown(f'kaggle://{handle}')}"
        )
    import kagglehub
    from kagglehub import exceptions

    try:
        return pathlib.Path(kagglehub.model_download(handle, what))
    except exceptions.KaggleApiHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"The weights of kaggle://{handle} are shared under terms that must be accepted: "
                "accept them on its page at kaggle.com, then run `kagglehub.login()`. Kaggle "
                f"said: {cause(error)}"
            ) from error
        kind = FileNotFoundError if status == 404 else ConnectionError
        raise kind(
            f"kaggle://{handle} cannot be downloaded. Kaggle said: {cause(error)}"
        ) from error
    except ValueError as error:
        if what is None or "is not present in the model files" not in str(error):
            raise
        raise FileNotFoundError(f"kaggle://{handle} has no {what}.") from error
    except OSError as error:
        raise ConnectionError(
            f"kaggle://{handle} cannot be downloaded: Kaggle is not reached, and the files are not "
            f"in the local cache. The library said: {cause(error)}"
        ) from error


def small_files_from_kaggle(handle):
    """The local directory of a Kaggle model, where everything but its weights has been put."""
    directory = download_from_kaggle(handle, "config.json").parent
    for name in _KAGGLE_FILES:
        # A text-only model has no image converter, and a backbone alone no tokenizer.
        with contextlib.suppress(FileNotFoundError):
            download_from_kaggle(handle, name)
    return directory
