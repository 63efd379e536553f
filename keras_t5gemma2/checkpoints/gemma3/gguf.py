"""What a GGUF file of Gemma 3 says, in the words of Gemma 3's own checkpoints."""

import numpy as np

from keras_t5gemma2.files.gguf import read_gguf
from keras_t5gemma2.files.limits import MOST_LAYERS, is_number
from keras_t5gemma2.files.tensors import StoredTensor, list_names
from keras_t5gemma2.messages import shown
from keras_t5gemma2.vocabulary.sentencepiece_model import sentencepiece_model

_NAMES = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_KEYS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_OPTIONAL_KEYS = {
    "context_length": "max_position_embeddings",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "rope.freq_base_swa": "rope_local_base_freq",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_SMALLEST = 1e-30
# llama.cpp knows Gemma 3 27b by its depth, and scales its attention in another way.
_LAYERS_OF_27B = 62


def read_gemma3_gguf(path):
    """The model in a GGUF file.

    Args:
        path: path of the file.

    Returns:
        A dict of the values that a `config.json` has, and a dict of `StoredTensor` by Gemma 3's
        names without a prefix, such as "layers.0.mlp.up_proj.weight", laid out as its own
        checkpoints are.

    Raises:
        ImportError: the `gguf` package is not installed.
        ValueError: the file is no GGUF file, is cut off, or holds another model.
    """
    metadata, stored = _read(path)
    tensors = {_gemma3_name(name): _gemma3_tensor(tensor) for name, tensor in stored.items()}
    values = _values(path, metadata)
    if "embed_tokens.weight" in tensors:
        values["vocab_size"] = tensors["embed_tokens.weight"].shape[0]
    return values, tensors


def sentencepiece_in_gguf(path):
    """The tokenizer in a GGUF file of Gemma 3: the bytes of a SentencePiece model.

    Args:
        path: path of the file.

    Raises:
        ImportError: the `gguf` package is not installed.
        ValueError: the file is no GGUF file, is cut off, or holds no tokenizer of Gemma 3's kind.
    """
    metadata, _ = _read(path)
    lists = [f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type")]
    ids = {
        f"tokenizer.ggml.{theirs}_token_id": f"{ours}_id"
        for theirs, ours in {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}.items()
    }
    _check_keys(path, [*lists, *ids], metadata)
    pieces, scores, types = (metadata[key] for key in lists)
    is_sound = isinstance(pieces, list) and all(type(piece) is str for piece in pieces)
    is_sound &= isinstance(scores, np.ndarray) and isinstance(types, np.ndarray)
    if not is_sound or not all(type(metadata[key]) is int for key in ids):
        raise ValueError(
            "The tokenizer of a GGUF file must be a list of pieces, their scores and types, and "
            f"whole numbers as ids. Received: {path}, which is damaged. Get it again"
        )
    return sentencepiece_model(
        pieces, scores.tolist(), types.tolist(), **{ids[key]: metadata[key] for key in ids}
    )


def _read(path):
    file = read_gguf(path)
    kind = file.metadata.get("general.architecture")
    if not isinstance(kind, str) or kind != "gemma3":
        raise ValueError(
            "The `general.architecture` of a GGUF file must be 'gemma3'. "
            f"Received: general.architecture={shown(kind)} in {path}"
        )
    return file


def _gemma3_name(name):
    """Gemma 3's name for a tensor of a GGUF file; one that has none comes back unchanged."""
    block, _, rest = name.removeprefix("blk.").partition(".")
    part = _LAYER_NAMES.get(rest.removesuffix(".weight"))
    return _NAMES.get(name, name) if part is None else f"layers.{block}.{part}.weight"


def _gemma3_tensor(tensor):
    if not tensor.name.endswith("norm.weight"):
        return StoredTensor(tensor.name, tensor.shape, tensor.read)
    # llama.cpp writes what its norms multiply by, which is 1 + weight.
    return StoredTensor(tensor.name, tensor.shape, lambda: tensor.read() - np.float32(1))


def _values(path, metadata):
    """What a `config.json` would say."""
    keys = {f"gemma3.{key}": name for key, name in _KEYS.items()}
    _check_keys(path, keys, metadata)
    keys |= {f"gemma3.{key}": name for key, name in _OPTIONAL_KEYS.items()}
    values = {name: metadata[key] for key, name in keys.items() if key in metadata}
    for key, name in keys.items():
        least = 0 if key.removeprefix("gemma3.") in _OPTIONAL_KEYS else _SMALLEST
        if name in values and not (is_number(values[name]) and least <= values[name]):
            raise ValueError(
                f"`{key}` of a GGUF file must be a positive number. Received: {path}, where it is "
                f"{shown(values[name])}"
            )
    num_layers = values["num_hidden_layers"]
    if type(num_layers) is not int or num_layers > MOST_LAYERS:
        raise ValueError(
            f"`gemma3.block_count` of a GGUF file must be a whole number up to {MOST_LAYERS}. "
            f"Received: {path}, where it is {shown(num_layers)}"
        )
    if not values.get("sliding_window"):
        # Then llama.cpp lets every layer see everything.
        values |= {"sliding_window": None, "layer_types": ["full_attention"] * num_layers}
    if "gemma3.rope.scaling.factor" in metadata:
        values["rope_scaling"] = {
            "rope_type": metadata.get("gemma3.rope.scaling.type", "linear"),
            "factor": metadata["gemma3.rope.scaling.factor"],
        }
    is_27b = num_layers == _LAYERS_OF_27B
    scalar = values["hidden_size"] / values["num_attention_heads"] if is_27b else values["head_dim"]
    return {**values, "query_pre_attn_scalar": scalar}


def _check_keys(path, keys, metadata):
    if missing := [key for key in keys if key not in metadata]:
        raise ValueError(
            "The metadata of a GGUF file must tell the sizes of the model and its tokenizer. "
            f"Missing in {path}: {list_names(missing)}"
        )
