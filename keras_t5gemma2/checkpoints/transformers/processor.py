"""Tokenizer, image converter and preprocessor of a directory in the reference's format."""

from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers, context_lengths
from keras_t5gemma2.checkpoints.transformers.files import read_processor, tokenizer_file
from keras_t5gemma2.files.json_object import read_json

TOKENIZER_FILES = "tokenizer.json or tokenizer.model"


def load_tokenizer(cls, directory, **kwargs):
    """The tokenizer of a directory."""
    path = tokenizer_file(directory)
    if path is None:
        raise FileNotFoundError(
            f"A tokenizer needs {TOKENIZER_FILES}. Received: {directory}, which has neither."
        )
    return cls(str(path), **kwargs)


def has_tokenizer(directory):
    """Whether a directory has a tokenizer."""
    return tokenizer_file(directory) is not None


def load_image_converter(cls, directory, **kwargs):
    """The image converter of a directory."""
    vision = _vision(directory)
    if vision is None:
        raise ValueError(
            "An image converter needs the directory of a model that sees images. Received: "
            f"{directory}, whose model takes text only."
        )
    return cls(**{**image_options(directory, vision)[0], **kwargs})


def load_preprocessor(cls, directory, text_only=False, **kwargs):
    """The preprocessor of a directory; its caps are what the stacks are made for."""
    encoder, decoder = context_lengths(read_json(directory, "config.json"))
    lengths = {"encoder_sequence_length": encoder, "decoder_sequence_length": decoder}
    kwargs = {**lengths, **kwargs}
    if "tokenizer" not in kwargs:
        kwargs["tokenizer"] = load_tokenizer(cls.tokenizer_cls, directory)
    if _vision(directory, text_only) is not None:
        options, tokens_per_image = image_options(directory, _vision(directory))
        kwargs = {"tokens_per_image": tokens_per_image, **kwargs}
        if "image_converter" not in kwargs:
            kwargs["image_converter"] = cls.image_converter_cls(**options)
    return cls(**kwargs)


def _vision(directory, text_only=False):
    return config_from_transformers(read_json(directory, "config.json"), text_only).vision


def image_options(directory, vision):
    """Arguments of the image converter, and the tokens of an image.

    Args:
        directory: path of a directory, in which the files of an image processor may stand.
        vision: `VisionConfig`, which such files must fit.

    Raises:
        ValueError: they do not fit, or want images treated in a way that the converter lacks.
    """
    wanted = ((vision.image_size, vision.image_size), vision.tokens_per_image)
    options = {"image_size": wanted[0], "tokens_per_image": wanted[1], **read_processor(directory)}
    given = (tuple(options["image_size"]), options.pop("tokens_per_image"))
    if given != wanted:
        raise ValueError(
            f"The image processor of {directory} must fit its vision tower, which takes images "
            f"of size {wanted[0]} and gives {wanted[1]} tokens for each. Received: "
            f"size={given[0]}, image_seq_length={given[1]}"
        )
    return options, wanted[1]
