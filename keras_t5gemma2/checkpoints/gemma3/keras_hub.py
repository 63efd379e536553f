"""A Gemma 3 preset of keras-hub: its config and its tensors, in the words of Gemma 3's own files.

The file of weights is read by the paths in it, one tensor at a time: keras-hub's own class would
hold the whole model a second time.
"""

import pathlib

import numpy as np

from keras_t5gemma2.checkpoints.gemma3.keras_hub_names import places
from keras_t5gemma2.files.h5 import checked_float, read_h5
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.messages import shown

BACKBONE = "keras_hub>Gemma3Backbone"
_TOKENIZER = "assets/tokenizer/vocabulary.spm"
_SLIDING, _FULL = "sliding_attention", "full_attention"
# What the class has built in: of its layers with a window, and of the others.
_WAVELENGTHS = {_SLIDING: 10_000.0, _FULL: 1_000_000.0}
_PERIOD = 6
# The tokens that Gemma 3 is made for, with and without scaled positions. A preset says nothing of
# them: its `sequence_length` is what training pads to.
_LONG, _SHORT = 131_072, 32_768
# What the class does where a config, an older one say, has no such key.
_DEFAULTS = {
    "query_head_dim_normalize": True,
    "use_query_key_norm": True,
    "use_post_ffw_norm": False,
    "use_post_attention_norm": False,
    "attention_logit_soft_cap": None,
    "final_logit_soft_cap": None,
    "use_sliding_window_attention": False,
    "sliding_window_size": 1024,
    "local_rope_scaling_factor": 1.0,
    "global_rope_scaling_factor": 1.0,
    "vision_encoder": None,
    "layer_norm_epsilon": 1e-6,
    "use_bidirectional_attention": False,
    "dropout": 0,
    "is_embedding_model": False,
}
_VISION_DEFAULTS = {"pool_size": 14, "layer_norm_epsilon": 1e-6}
_SIZES = ("hidden_dim", "intermediate_dim", "num_layers")
_TEXT_SIZES = (
    *(*_SIZES, "vocabulary_size", "head_dim"),
    *("num_query_heads", "num_key_value_heads"),
)
_VISION_SIZES = (*_SIZES, "image_size", "patch_size", "pool_size", "num_heads")
# Far above any model there is: a larger size is a mistake.
_LARGEST_SIZE, _MOST_LAYERS = 1 << 24, 10_000
# What T5Gemma 2 has too, and a Gemma 3 can be without.
_NEEDED = {
    "use_query_key_norm": True,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "is_embedding_model": False,
}


def is_keras_preset(directory):
    """Whether a directory holds a preset, of whatever model, and no checkpoint of the reference."""
    path = pathlib.Path(directory) / "config.json"
    return path.is_file() and "registered_name" in read_json(directory, "config.json")


def read_gemma3_preset(directory):
    """The model in a preset directory of `keras_hub.models.Gemma3Backbone` or `Gemma3CausalLM`.

    Args:
        directory: path of the directory.

    Returns:
        What `read_gemma3_directory` returns.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is a preset of another model, a Gemma 3 that T5Gemma 2 cannot start from,
            or a file is not what it should be.
    """
    content = read_json(directory, "config.json")
    name = content["registered_name"]
    if name != BACKBONE:
        raise ValueError(
            f"A preset must be one of keras-hub's Gemma 3, {BACKBONE!r}. "
            f"Received: registered_name={shown(name)} in {directory}"
        )
    config = _complete(directory, content.get("config"), _TEXT_SIZES, _DEFAULTS)
    for key, value in _NEEDED.items():
        if config[key] != value:
            raise ValueError(
                f"The `{key}` of a Gemma 3 preset must be {value}, as T5Gemma 2 has it. "
                f"Received: {key}={shown(config[key])} in {directory}"
            )
    values = {"text_config": _text_values(config), "vision_config": None}
    vision = config["vision_encoder"]
    if vision is not None:
        vision = _complete(directory, vision.get("config"), _VISION_SIZES, _VISION_DEFAULTS)
        values |= _vision_values(vision)
    wanted = places(config["num_layers"], vision and vision["num_layers"])
    return values, _tensors(pathlib.Path(directory), wanted)


def sentencepiece_in_preset(directory):
    """The path of a preset's tokenizer, `None` where there is none."""
    path = pathlib.Path(directory) / _TOKENIZER
    return path if path.is_file() else None


def _complete(directory, config, sizes, defaults):
    """A config with all of its keys; the sizes must be there."""
    config = {**defaults, **(config or {})}
    for key in sizes:
        value = config.get(key)
        largest = _MOST_LAYERS if key == "num_layers" else _LARGEST_SIZE
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(
                f"The `{key}` of a Gemma 3 preset must be an integer from 1 to {largest}. "
                f"Received: {key}={shown(value)} in {directory}"
            )
    return config


def _text_values(config):
    """What the `config.json` of the same text model says."""
    has_window = config["use_sliding_window_attention"]
    count = config["num_layers"]
    kinds = [_SLIDING if has_window and (i + 1) % _PERIOD else _FULL for i in range(count)]
    factors = {
        _SLIDING: config["local_rope_scaling_factor"],
        _FULL: config["global_rope_scaling_factor"],
    }
    heads, width = config["num_query_heads"], config["head_dim"]
    is_by_width = config["query_head_dim_normalize"]
    return {
        "vocab_size": config["vocabulary_size"],
        "hidden_size": config["hidden_dim"],
        "max_position_embeddings": _LONG if factors[_FULL] > 1 else _SHORT,
        "intermediate_size": config["intermediate_dim"],
        "num_hidden_layers": count,
        "num_attention_heads": heads,
        "num_key_value_heads": config["num_key_value_heads"],
        "head_dim": width,
        "query_pre_attn_scalar": width if is_by_width else config["hidden_dim"] / heads,
        "rms_norm_eps": config["layer_norm_epsilon"],
        "sliding_window": config["sliding_window_size"],
        "layer_types": kinds,
        "rope_parameters": {
            kind: {"rope_type": "linear", "factor": factors[kind], "rope_theta": theta}
            for kind, theta in _WAVELENGTHS.items()
        },
        "attn_logit_softcapping": config["attention_logit_soft_cap"],
        "final_logit_softcapping": config["final_logit_soft_cap"],
        "use_bidirectional_attention": config["use_bidirectional_attention"],
        "attention_dropout": config["dropout"],
    }


def _vision_values(config):
    side = config["image_size"] // config["patch_size"] // config["pool_size"]
    return {
        "vision_config": {
            "hidden_size": config["hidden_dim"],
            "intermediate_size": config["intermediate_dim"],
            "num_hidden_layers": config["num_layers"],
            "num_attention_heads": config["num_heads"],
            "image_size": config["image_size"],
            "patch_size": config["patch_size"],
            "layer_norm_eps": config["layer_norm_epsilon"],
            "vision_use_head": False,
        },
        "mm_tokens_per_image": side**2,
    }


def _tensors(directory, wanted):
    """`StoredTensor` by Gemma 3's names; what no row names keeps its path."""
    by_path = {place.path: (name, place.arrange) for name, place in wanted.items()}
    found = {}
    for path, tensor in read_h5(directory).items():
        name, arrange = by_path.get(path, (path, np.asarray))
        found[name] = _stored(checked_float(tensor), arrange)
    return found


def _stored(tensor, arrange):
    # The shape alone, of an array that takes no memory.
    shape = arrange(np.broadcast_to(np.float32(0), tensor.shape)).shape
    return StoredTensor(tensor.name, shape, lambda: arrange(tensor.read()), tensor.release)
