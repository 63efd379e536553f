"""What stands beside the weights in a directory of the reference: processor and tokenizer."""

import math
import pathlib

from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.limits import is_number
from keras_t5gemma2.messages import shown
from keras_t5gemma2.vocabulary.special_tokens import MASK_TOKEN

PROCESSOR_FILE, TOKENIZER_FILE = "processor_config.json", "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

# `tokenizer.json` first: it holds every added token, which a SentencePiece model may lack.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
# What the image converter does to every image. A checkpoint that wants another treatment cannot
# be served; one that says nothing, or null, wants this one.
_FIXED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": 2,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_PAN_AND_SCAN = {
    "do_pan_and_scan": "pan_and_scan",
    "pan_and_scan_min_crop_size": "min_crop_size",
    "pan_and_scan_max_num_crops": "max_num_crops",
    "pan_and_scan_min_ratio_to_activate": "min_ratio_to_activate",
}
_TOKENS_PER_IMAGE = "image_seq_length"
_IMAGE_TOKENS = {
    "boi_token": "start_of_image_token",
    "eoi_token": "end_of_image_token",
    "image_token": "image_token",
}
# What published files say for a text of any length.
_NO_LIMIT = 10**30
_COUNT, _NUMBER, _BOOL = "a positive integer", "a positive number", "true or false"
_RULES = {
    _TOKENS_PER_IMAGE: _COUNT,
    "do_pan_and_scan": _BOOL,
    "pan_and_scan_min_crop_size": _COUNT,
    "pan_and_scan_max_num_crops": _COUNT,
    "pan_and_scan_min_ratio_to_activate": _NUMBER,
}


def read_processor(directory):
    """What a checkpoint says about images.

    Args:
        directory: path of a directory, with `processor_config.json`, `preprocessor_config.json`
            or neither.

    Returns:
        A dict with those of these keys about which the files say something: `image_size`
        ((height, width) in pixels), `tokens_per_image`, and the Pan and Scan arguments of
        `T5Gemma2ImageConverter`: `pan_and_scan`, `min_crop_size`, `max_num_crops`,
        `min_ratio_to_activate`.

    Raises:
        ValueError: images are to be treated in a way that the converter does not know.

    Example:

    >>> import pathlib, tempfile
    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> text = '{"image_processor": {"size": {"height": 896, "width": 896}}}'
    >>> _ = (directory / "processor_config.json").write_text(text)
    >>> read_processor(directory)
    {'image_size': (896, 896)}
    """
    values = _processor_values(directory)
    for key, wanted in _FIXED.items():
        if values.get(key) is not None and not _is_close(values[key], wanted):
            raise ValueError(
                f"`{key}` of the image processor in {directory} must be {wanted}: images are made "
                "RGB, resized with a bilinear filter and scaled to [-1, 1]. "
                f"Received: {key}={shown(values[key])}"
            )
    found = {
        ours: values[theirs]
        for theirs, ours in ((_TOKENS_PER_IMAGE, "tokens_per_image"), *_PAN_AND_SCAN.items())
        if values.get(theirs) is not None
    }
    for theirs, rule in _RULES.items():
        value = values.get(theirs)
        if value is not None and not _follows(value, rule):
            raise ValueError(
                f"`{theirs}` of the image processor in {directory} must be {rule}. "
                f"Received: {theirs}={shown(value)}"
            )
    if values.get("size") is not None:
        found["image_size"] = _height_and_width(directory, values["size"])
    return found


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


def processor_config(converter, tokens_per_image):
    """The `processor_config.json` that `read_processor` reads so, as a dict.

    Args:
        converter: `T5Gemma2ImageConverter`.
        tokens_per_image: int.
    """
    height, width = converter.image_size
    return {
        "processor_class": "Gemma3Processor",
        _TOKENS_PER_IMAGE: tokens_per_image,
        "image_processor": {
            "image_processor_type": "Gemma3ImageProcessor",
            **_FIXED,
            "size": {"height": height, "width": width},
            **{theirs: getattr(converter, ours) for theirs, ours in _PAN_AND_SCAN.items()},
        },
    }


def tokenizer_config(tokenizer, sees_images):
    """The `tokenizer_config.json` of a `T5Gemma2Tokenizer`, as a dict.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        sees_images: bool. Whether there is a processor for images too.
    """
    tokens = {
        "bos_token": tokenizer.start_token,
        "eos_token": tokenizer.end_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
        # Without a null here, the reference's class would add it to the vocabulary.
        "mask_token": MASK_TOKEN if MASK_TOKEN in tokenizer.get_vocabulary() else None,
    }
    image_tokens = {
        theirs: getattr(tokenizer, ours)
        for theirs, ours in _IMAGE_TOKENS.items()
        if getattr(tokenizer, f"{ours}_id") is not None
    }
    return {
        "tokenizer_class": "GemmaTokenizer",
        **({"processor_class": "Gemma3Processor"} if sees_images else {}),
        **tokens,
        **image_tokens,
        "extra_special_tokens": image_tokens,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _NO_LIMIT,
        "padding_side": "right",
    }


def tokenizer_file(directory):
    """The `pathlib.Path` of a checkpoint's tokenizer, `None` if there is none."""
    paths = (pathlib.Path(directory) / name for name in _TOKENIZER_FILES)
    return next((path for path in paths if path.is_file()), None)


def _processor_values(directory):
    """Everything about images; the newer file nests it, and wins over the older."""
    directory = pathlib.Path(directory)
    values = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (directory / name).is_file():
            found = read_json(directory, name)
            nested = found.get("image_processor", {})
            if not isinstance(nested, dict):
                raise ValueError(
                    f"`image_processor` of {directory / name} must be an object. "
                    f"Received: image_processor={shown(nested)}"
                )
            values.update(found, **nested)
    return values


def _follows(value, rule):
    if rule == _BOOL:
        return isinstance(value, bool)
    return is_number(value) and value > 0 and (rule == _NUMBER or type(value) is int)


def _is_close(value, wanted):
    """Whether two numbers, or lists of them, are equal but for rounding in a file."""
    if isinstance(wanted, list):
        is_list = isinstance(value, list) and len(value) == len(wanted)
        return is_list and all(map(_is_close, value, wanted))
    return (is_number(value) or value is wanted) and math.isclose(value, wanted, rel_tol=1e-6)


def _height_and_width(directory, size):
    sides = [size.get(side) for side in ("height", "width")] if isinstance(size, dict) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"`size` of the image processor in {directory} must give `height` and `width` in "
            f"pixels. Received: size={shown(size)}"
        )
    return tuple(sides)
