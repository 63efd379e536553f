"""A preset of keras-hub's own T5Gemma 2, or of its T5Gemma 1."""

import dataclasses
import functools

import numpy as np

from keras_t5gemma2.checkpoints.checkpoint import Checkpoint, SavedLayer
from keras_t5gemma2.checkpoints.keras_hub import names, t5gemma1
from keras_t5gemma2.checkpoints.keras_hub.config import (
    FIRST_BACKBONE_NAME,
    IMAGE_TOKEN_ID,
    config_from_keras_hub,
)
from keras_t5gemma2.checkpoints.keras_hub.tokenizer import TOKENIZER_ASSET, tokenizer_asset
from keras_t5gemma2.checkpoints.keras_hub.untied import one_of
from keras_t5gemma2.files.chat_template import TEMPLATE_FILE, read_template
from keras_t5gemma2.files.h5 import check_names, checked_float, read_h5, stored_tensors
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.messages import shown
from keras_t5gemma2.vocabulary.special_tokens import IMAGE_TOKENS
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary

# How keras-hub writes the reference's treatment of levels. It resizes in other ways, with a crop
# and without antialiasing, which is not how the model was trained: of that nothing is taken.
_LEVELS = {"scale": 1 / 127.5, "offset": -1.0}


@dataclasses.dataclass(frozen=True)
class KerasHubCheckpoint(Checkpoint):
    """A preset directory of keras-hub's own T5Gemma 2, or of its T5Gemma 1.

    Args:
        embeddings: "encoder", "decoder", "mean" or `None`: which of the two embedding tables of
            the preset the model takes, where they differ.
    """

    embeddings: str | None = None

    small_files = (*Checkpoint.small_files, TEMPLATE_FILE)
    tokenizer_files = str(TOKENIZER_ASSET)

    @property
    def generation(self):
        values = read_json(self.path, "config.json")
        return 1 if values.get("registered_name") == FIRST_BACKBONE_NAME else 2

    @functools.cached_property
    def config(self):
        values = read_json(self.path, "config.json")
        if self.generation == 1:
            return self.parts_of(t5gemma1.config_from_keras_hub(values))
        config = config_from_keras_hub(values, text_only=self.text_only)
        if config.vision is not None:
            config = config_from_keras_hub(values, _image_token_id(self.path, config))
        return self.parts_of(config)

    def tensors(self):
        if self.generation == 1:
            return _tensors_of_first(self.path, self.config)
        # An encoder alone is asked for no choice: it takes its own table.
        embeddings = self.embeddings or ("encoder" if self.encoder_only else None)
        return _tensors_by_path(self.path, self.config, embeddings)

    @property
    def has_tokenizer(self):
        return tokenizer_asset(self.path) is not None

    def tokenizer(self):
        path = tokenizer_asset(self.path)
        if path is None:
            raise FileNotFoundError(
                f"A tokenizer of keras-hub needs {self.tokenizer_files}. Received: {self.path}, "
                "which does not hold it."
            )
        return SavedLayer({"proto": str(path)})

    def image_converter(self):
        """The reference's, of the vision tower's size."""
        vision = self.config.vision
        if vision is None:
            raise FileNotFoundError(
                f"The model of {self.path} has no vision tower, and takes no images."
            )
        path = self.path / "image_converter.json"
        values = (read_json(self.path, path.name).get("config") if path.is_file() else {}) or {}
        for key, wanted in _LEVELS.items():
            given = values.get(key, wanted)
            if not all(_is_close(level, wanted) for level in np.ravel(given).tolist()):
                raise ValueError(
                    f"`{key}` of the image converter in {path} must be {wanted}: the levels of "
                    f"images are scaled to [-1, 1]. Received: {key}={shown(given)}"
                )
        return SavedLayer({"image_size": vision.image_size})

    def preprocessor(self):
        """The lengths alone: rows are prepared as the reference does it.

        keras-hub's own preprocessor gives the encoder no `<bos>`, ends its text in training with
        `<eos>`, and cuts images where the reference squashes them.
        """
        path = self.path / "preprocessor.json"
        values = read_json(self.path, path.name).get("config") if path.is_file() else {}
        found = {
            key: _length(path, key, values[key])
            for key in ("encoder_sequence_length", "decoder_sequence_length")
            if (values or {}).get(key) is not None
        }
        if (vision := self.config.vision) is not None:
            found["tokens_per_image"] = vision.tokens_per_image
        found["chat_template"] = read_template(self.path)
        return SavedLayer(found)


def _tensors_by_path(directory, config, embeddings):
    found = {name: checked_float(tensor) for name, tensor in read_h5(directory).items()}
    if config.vision is None:
        found = {name: tensor for name, tensor in found.items() if not names.is_vision_name(name)}
    if config.decoder is None:
        found = {name: tensor for name, tensor in found.items() if not names.is_decoder_name(name)}
    rows = names.rows(config)
    wanted = {copy for row in rows for copy in names.copies(row.name)}
    has_vector = config.vision is not None or names.ENDS_OF_IMAGE[0] in found
    if not has_vector:
        wanted -= set(names.ENDS_OF_IMAGE)
    check_names(directory, wanted, found)
    for first, second in (names.TABLES, names.ENDS_OF_IMAGE)[: 1 + has_vector]:
        found[first] = one_of(found[first], found.pop(second), embeddings, directory)
    if not has_vector:
        found[names.ENDS_OF_IMAGE[0]] = _end_of_image(found[names.TABLES[0]], config)
    return stored_tensors(directory, rows, found)


def _tensors_of_first(directory, config):
    """Of T5Gemma 1, which has two tables as keras-hub has them."""
    found = {name: checked_float(tensor) for name, tensor in read_h5(directory).items()}
    if config.decoder is None:
        of_decoder = names.TABLES[1]
        found = {
            name: tensor
            for name, tensor in found.items()
            if not names.is_decoder_name(name) and name != of_decoder
        }
    rows = names.rows(config)
    check_names(directory, {row.name for row in rows}, found)
    return stored_tensors(directory, rows, found)


def _image_token_id(directory, config):
    """The id of the image token, which only the tokenizer of a preset knows."""
    path = tokenizer_asset(directory)
    found = None if path is None else Vocabulary(path).token_to_id(IMAGE_TOKENS["image_token"])
    if found is None and config.vocabulary_size <= IMAGE_TOKEN_ID:
        raise ValueError(
            f"A model of {config.vocabulary_size} tokens that takes images needs a tokenizer with "
            f"{IMAGE_TOKENS['image_token']}, which says where they go. Received: {directory}, "
            f"{'without a tokenizer' if path is None else 'whose tokenizer has no such token'}. "
            "Save the task, or load with `text_only=True`"
        )
    return IMAGE_TOKEN_ID if found is None else found


def _end_of_image(table, config):
    """The vector of a model without images, whose end-of-image token is a token like any other."""

    def read():
        if config.end_of_image_token_id >= config.vocabulary_size:
            return np.zeros(config.hidden_dim, "float32")
        row = table.read()[config.end_of_image_token_id].astype("float32")
        return row * np.float32(config.hidden_dim**0.5)

    return StoredTensor(f"a row of {table.name}", (config.hidden_dim,), read)


def _length(path, key, value):
    if type(value) is not int or value < 1:
        raise ValueError(
            f"`{key}` in {path} must be a number of tokens. Received: {key}={shown(value)}"
        )
    return value


def _is_close(value, wanted):
    return isinstance(value, int | float) and abs(value - wanted) < 1e-6
