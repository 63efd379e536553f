"""Where each weight is in the file of a Gemma 3 preset of keras-hub, and how it lies there."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where in the file a tensor is, and how it becomes one of Gemma 3's own layout."""

    path: str
    arrange: Callable = np.asarray


def _transposed(kernel):
    return kernel.T


def _of_heads(kernel):
    """(heads, in, width) to (heads x width, in)."""
    return kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])


def _to_model(kernel):
    """(heads, width, out) to (out, heads x width)."""
    return kernel.reshape(-1, kernel.shape[2]).T


def _of_patches(kernel):
    """(height, width, in, out) to (out, in, height, width)."""
    return kernel.transpose(3, 2, 0, 1)


_MODEL = {
    "embed_tokens.weight": Place("reversible_embedding/vars/0"),
    "norm.weight": Place("rms_normalization/vars/0"),
}
_LAYER = {
    "input_layernorm.weight": Place("pre_attention_norm/vars/0"),
    "self_attn.q_proj.weight": Place("attention/query_dense/vars/0", _of_heads),
    "self_attn.k_proj.weight": Place("attention/key_dense/vars/0", _of_heads),
    "self_attn.v_proj.weight": Place("attention/value_dense/vars/0", _of_heads),
    "self_attn.o_proj.weight": Place("attention/output_dense/vars/0", _to_model),
    "self_attn.q_norm.weight": Place("attention/query_norm/vars/0"),
    "self_attn.k_norm.weight": Place("attention/key_norm/vars/0"),
    "post_attention_layernorm.weight": Place("post_attention_norm/vars/0"),
    "pre_feedforward_layernorm.weight": Place("pre_ffw_norm/vars/0"),
    "mlp.gate_proj.weight": Place("gating_ffw/vars/0", _transposed),
    "mlp.up_proj.weight": Place("gating_ffw_2/vars/0", _transposed),
    "mlp.down_proj.weight": Place("ffw_linear/vars/0", _transposed),
    "post_feedforward_layernorm.weight": Place("post_ffw_norm/vars/0"),
}
_TOWER = {
    "embeddings.patch_embedding.weight": Place(
        "vision_embeddings/patch_embedding/vars/0", _of_patches
    ),
    "embeddings.patch_embedding.bias": Place("vision_embeddings/patch_embedding/vars/1"),
    "embeddings.position_embedding.weight": Place("vision_embeddings/position_embedding/vars/0"),
    "post_layernorm.weight": Place("encoder_layer_norm/vars/0"),
    "post_layernorm.bias": Place("encoder_layer_norm/vars/1"),
}
_TOWER_LAYER = {
    "layer_norm1": "layer_norm_1",
    "self_attn.q_proj": "attn/query_proj",
    "self_attn.k_proj": "attn/key_proj",
    "self_attn.v_proj": "attn/value_proj",
    "self_attn.out_proj": "attn/out_proj",
    "layer_norm2": "layer_norm_2",
    "mlp.fc1": "mlp_dense_1",
    "mlp.fc2": "mlp_dense_2",
}
_PROJECTOR = {
    "mm_soft_emb_norm.weight": Place("vision_soft_embedding_norm/vars/0"),
    # The one matrix that Gemma 3's own files keep as (in, out).
    "mm_input_projection_weight": Place("vision_input_projection/vars/0"),
}


def places(num_layers, num_vision_layers):
    """`Place` by Gemma 3's names, of the whole model.

    Args:
        num_layers: int.
        num_vision_layers: int, or `None` for a text model.
    """
    found = _under("", "layers/", _MODEL)
    for i in range(num_layers):
        path = f"layers/gemma3_decoder_block{_suffix(i)}/"
        found |= _under(f"layers.{i}.", path, _LAYER)
    if num_vision_layers is None:
        return found
    encoder = "layers/gemma3_vision_encoder/layers/"
    tower = f"{encoder}gemma3_vision_encoder_block/"
    found |= _under("vision_tower.", tower, _TOWER)
    for i in range(num_vision_layers):
        path = f"{tower}resblocks/gemma3_vision_encoder_layer{_suffix(i)}/"
        found |= _under(f"vision_tower.encoder.layers.{i}.", path, _vision_layer())
    return found | _under("multi_modal_projector.", f"{encoder}gemma3_vision_output/", _PROJECTOR)


@functools.cache
def _vision_layer():
    """Weight and bias of each part of a layer; those of norms are called so too."""
    found = {}
    for name, path in _TOWER_LAYER.items():
        arrange = np.asarray if name.startswith("layer_norm") else _transposed
        found[f"{name}.weight"] = Place(f"{path}/vars/0", arrange)
        found[f"{name}.bias"] = Place(f"{path}/vars/1")
    return found


def _under(name_prefix, path_prefix, table):
    return {
        name_prefix + name: Place(path_prefix + place.path, place.arrange)
        for name, place in table.items()
    }


def _suffix(i):
    """Keras numbers the layers of a class, all but the first."""
    return f"_{i}" if i else ""
