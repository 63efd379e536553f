"""What a reader of a checkpoint gives: values, of which other parts of the package make objects."""

import dataclasses
import inspect
import pathlib
from typing import Any, ClassVar, NamedTuple

import keras

from keras_t5gemma2.checkpoints.sources import source_of
from keras_t5gemma2.typing import PathLike


class SavedLayer(NamedTuple):
    """What a checkpoint says of a tokenizer, an image converter or a preprocessor.

    Args:
        arguments: dict, of the constructor.
        path: path of the file that says so, or `None`: then the constructor's errors stand alone.
        registered_name: string. The class in that file; without a `path` it is the caller's.
        assets: string. Directory of the files that `load_assets` takes, or `None`.
    """

    arguments: dict
    path: pathlib.Path | None = None
    registered_name: str | None = None
    assets: str | None = None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model in files. Every format has a class derived from this one, which reads them.

    A file is read when what it says is asked for: damage elsewhere does not matter until then.
    Beside what is defined here, every format has

    - `config`: `BackboneConfig`;
    - `tensors()`: dict of `StoredTensor` by the paths of a backbone's variables;
    - `tokenizer()` and `image_converter()`: `SavedLayer`, or an error where there is none;
    - `preprocessor()`: `SavedLayer`, without tokenizer and image converter.

    Args:
        path: path of the directory or file.
        text_only: bool. Leave out the vision tower, with the tensors and layers that belong to it.
        preset: what the user called the checkpoint, which may say what its weights derive from.
        encoder_only: bool. Leave out the decoder, with the tensors that belong to it.
        rope_factor: float, instead of what layers of full attention have; or `None`.
    """

    path: PathLike
    text_only: bool = False
    preset: str | None = None
    encoder_only: bool = False
    rope_factor: float | None = None

    # Patterns of the files to download: always, and with the weights.
    small_files: ClassVar[tuple[str, ...]] = ("*.json", "assets/tokenizer/*")
    weight_files: ClassVar[tuple[str, ...]] = (
        *("model.weights.h5", "model.weights.json", "model_*.weights.h5"),
        "adapters/*.safetensors",
    )
    tokenizer_files = ""  # what messages call the files of a tokenizer
    has_tokenizer = True
    settings: ClassVar[
        dict[str, Any]
    ] = {}  # further arguments of the backbone's constructor, by name
    # Whether the end-of-image token has no vector but the scaled one of the embedding table.
    end_of_image_is_in_table = False

    def parts_of(self, config):
        """A `BackboneConfig` without the parts that are left out, and with other positions."""
        config = dataclasses.replace(config, vision=None) if self.text_only else config
        config = config.encoder_alone() if self.encoder_only else config
        return config if self.rope_factor is None else config.with_rope_factor(self.rope_factor)

    @property
    def generation(self):
        """1 or 2: which T5Gemma it is, told without a look at its sizes."""
        return 2

    @property
    def origin(self):
        """What errors call the source of `config`."""
        return self.path / "config.json"

    @property
    def source(self):
        """What the weights derive from; see `sources`."""
        return source_of(self.preset or self.path, self.path)

    @property
    def has_image_converter(self):
        """Whether the preprocessor has an image converter."""
        return self.config.vision is not None

    def head_tensors(self):
        """Dict of `StoredTensor` by path, of a classifier's head; empty where there is none."""
        return {}

    def task(self, cls):
        """The class of the task, `cls` or one derived from it, and arguments it was saved with."""
        return cls, {}


def registered_class(name, base):
    """The class that is registered by a name, or `None` if it is not derived from `base`."""
    found = keras.saving.get_registered_object(str(name))
    return found if inspect.isclass(found) and issubclass(found, base) else None
