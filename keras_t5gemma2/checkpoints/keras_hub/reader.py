"""A model from a preset of keras-hub's own T5Gemma 2."""

import pathlib

import numpy as np

from keras_t5gemma2.checkpoints.keras_hub import names as keras_hub_names
from keras_t5gemma2.checkpoints.keras_hub.config import IMAGE_TOKEN_ID, config_from_keras_hub
from keras_t5gemma2.checkpoints.keras_hub.tokenizer import TOKENIZER_ASSET, tokenizer_asset
from keras_t5gemma2.checkpoints.keras_hub.untied import one_of
from keras_t5gemma2.files.h5 import check_names, checked_float, read_h5, stored_tensors
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.limits import check_size
from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import build_with_weights
from keras_t5gemma2.vocabulary.special_tokens import IMAGE_TOKENS
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary

TOKENIZER_FILES = str(TOKENIZER_ASSET)
# How keras-hub writes the reference's treatment of levels. It resizes in other ways, with a crop
# and without antialiasing, which is not how the model was trained: of that nothing is taken.
_LEVELS = {"scale": 1 / 127.5, "offset": -1.0}


def load_backbone(
    directory,
    load_weights=True,
    text_only=False,
    embeddings=None,
    dtype=None,
    allow_nonfinite=False,
    **kwargs,
):
    """The backbone of a preset directory of keras-hub's own T5Gemma 2.

    Args:
        directory: path of the directory.
        load_weights: bool. If false, the weights are random and no file of weights is needed.
        text_only: bool. Leave out the vision tower: it is neither built nor read.
        embeddings: "encoder", "decoder", "mean" or `None`: which of the two embedding tables of
            the preset the model takes, where they differ.
        dtype: string or `keras.DTypePolicy` of every part; `None` is Keras's global policy.
        allow_nonfinite: bool. Whether weights may be NaN or infinite.
        **kwargs: further arguments of `T5Gemma2Backbone`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the config asks for what the model does not have; a weight is missing,
            unexpected, of a wrong shape or type; the two tables differ; a file is damaged.
    """
    config = _config(directory, text_only)
    check_size(config, pathlib.Path(directory, "config.json"))

    def build():
        return T5Gemma2Backbone(config, dtype=dtype, **kwargs)

    if not load_weights:
        return build()
    tensors = _tensors_by_path(directory, config, embeddings)
    return build_with_weights(build, tensors, allow_nonfinite)


def _tensors_by_path(directory, config, embeddings):
    names = keras_hub_names
    found = {name: checked_float(tensor) for name, tensor in read_h5(directory).items()}
    if config.vision is None:
        found = {name: tensor for name, tensor in found.items() if not names.is_vision_name(name)}
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


def load_preprocessor(cls, directory, text_only=False, **kwargs):
    """The preprocessor of a preset directory, which prepares rows as the reference does.

    keras-hub's own gives the encoder no `<bos>`, ends its text in training with `<eos>`, and
    cuts images where the reference squashes them; none of that is taken over.

    Args:
        cls: the class of the preprocessor.
        directory: path of the directory.
        text_only: bool. Whether the model has no vision tower.
        **kwargs: `tokenizer`, and further arguments of the constructor.
    """
    path = pathlib.Path(directory, "preprocessor.json")
    values = read_json(directory, path.name).get("config") if path.is_file() else {}
    lengths = {
        key: _length(path, key, values[key])
        for key in ("encoder_sequence_length", "decoder_sequence_length")
        if (values or {}).get(key) is not None
    }
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = load_tokenizer(cls.tokenizer_cls, directory)
    vision = _config(directory, text_only).vision
    if vision is not None:
        kwargs = {"tokens_per_image": vision.tokens_per_image, **kwargs}
        if "image_converter" not in kwargs:
            kwargs["image_converter"] = load_image_converter(cls.image_converter_cls, directory)
    return cls(**{**lengths, **kwargs})


def load_tokenizer(cls, directory, **kwargs):
    """The tokenizer of a preset directory."""
    path = tokenizer_asset(directory)
    if path is None:
        raise FileNotFoundError(
            f"A tokenizer of keras-hub needs {TOKENIZER_FILES}. Received: {directory}, which does "
            "not hold it."
        )
    return cls(str(path), **kwargs)


def has_tokenizer(directory):
    """Whether a preset directory has a tokenizer."""
    return tokenizer_asset(directory) is not None


def load_image_converter(cls, directory, **kwargs):
    """The image converter of a preset directory: the reference's, of the vision tower's size."""
    vision = _config(directory).vision
    if vision is None:
        raise FileNotFoundError(
            f"The model of {directory} has no vision tower, and takes no images."
        )
    path = pathlib.Path(directory, "image_converter.json")
    values = (read_json(directory, path.name).get("config") if path.is_file() else {}) or {}
    for key, wanted in _LEVELS.items():
        given = values.get(key, wanted)
        if not all(_is_close(level, wanted) for level in np.ravel(given).tolist()):
            raise ValueError(
                f"`{key}` of the image converter in {path} must be {wanted}: the levels of images "
                f"are scaled to [-1, 1]. Received: {key}={shown(given)}"
            )
    return cls(**{"image_size": vision.image_size, **kwargs})


def _config(directory, text_only=False):
    values = read_json(directory, "config.json")
    config = config_from_keras_hub(values, text_only=text_only)
    if config.vision is None:
        return config
    return config_from_keras_hub(values, _image_token_id(directory, config))


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
