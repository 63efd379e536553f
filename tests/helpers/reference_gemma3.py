"""Tiny random Gemma 3 models of the reference implementation, and what is made of them."""

import gguf
import numpy as np
import torch
from reference_models import our_logits
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
)

_SLIDING, _FULL = "sliding_attention", "full_attention"
CONFIG = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 6,
    "layer_types": [_SLIDING, _FULL, _SLIDING],
}


def tiny_gemma3(seed=0, **overrides):
    """A random `Gemma3ForCausalLM` in float32 and evaluation mode, its norms random too.

    Args:
        seed: int. Of the weights; torch's own generator is left as it was.
        **overrides: config values.
    """
    with torch.random.fork_rng(devices=[]):
        model = Gemma3ForCausalLM(Gemma3TextConfig(**{**CONFIG, **overrides}))
    return _randomize(model, seed)


def tiny_gemma3_with_vision(seed=0, **overrides):
    """The same as a `Gemma3ForConditionalGeneration`; the arguments are about its text part."""
    vision = {
        **{"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 1},
        **{"num_attention_heads": 3, "image_size": 28, "patch_size": 7, "vision_use_head": False},
    }
    ids = {"boi_token_index": 5, "eoi_token_index": 6, "image_token_index": 7}
    text = {**CONFIG, **overrides}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **ids)
    with torch.random.fork_rng(devices=[]):
        model = Gemma3ForConditionalGeneration(config)
    return _randomize(model, seed)


def reference_logits(model, ids):
    """Logits of the reference's model, (rows, length, vocabulary)."""
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def masked_encoder_logits(backbone, ids):
    """Logits of (rows, length) decoder ids, over an encoder that nobody sees."""
    nothing = np.zeros((len(ids), 1), "int32")
    return our_logits(
        backbone,
        {
            "encoder_token_ids": nothing,
            "encoder_padding_mask": nothing,
            "decoder_token_ids": ids,
            "decoder_padding_mask": np.ones_like(ids),
        },
    )


def write_gguf(path, model, kind="F32", metadata=None, tensors=None):
    """Writes the GGUF file that llama.cpp's converter makes of a `Gemma3ForCausalLM`.

    Args:
        path: of the file.
        model: `Gemma3ForCausalLM`.
        kind: string, a name of `gguf.GGMLQuantizationType`, of the matrices.
        metadata: dict of values that are added, or, where None, left out.
        tensors: dict of numpy arrays by GGUF's name that are added, or, where None, left out.

    Returns:
        `path`.
    """
    arch = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GEMMA3]
    writer = gguf.GGUFWriter(path, arch)
    values = {key.format(arch=arch): value for key, value in _metadata(model.config).items()}
    for key, value in {**values, **(metadata or {})}.items():
        if value is not None:
            _add(writer, key, value)
    for name, value in {**_tensors(model), **(tensors or {})}.items():
        if value is not None:
            is_matrix = value.ndim == 2
            quantized = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
            writer.add_tensor(name, gguf.quantize(value, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (0.2 if parameter.ndim == 1 else parameter.shape[1] ** -0.5))
    return model.eval()


def _metadata(config):
    attention, rope = gguf.Keys.Attention, gguf.Keys.Rope
    return {
        gguf.Keys.LLM.CONTEXT_LENGTH: config.max_position_embeddings,
        gguf.Keys.LLM.EMBEDDING_LENGTH: config.hidden_size,
        gguf.Keys.LLM.BLOCK_COUNT: config.num_hidden_layers,
        gguf.Keys.LLM.FEED_FORWARD_LENGTH: config.intermediate_size,
        attention.HEAD_COUNT: config.num_attention_heads,
        attention.HEAD_COUNT_KV: config.num_key_value_heads,
        attention.KEY_LENGTH: config.head_dim,
        attention.VALUE_LENGTH: config.head_dim,
        attention.LAYERNORM_RMS_EPS: config.rms_norm_eps,
        attention.SLIDING_WINDOW: config.sliding_window,
        attention.SLIDING_WINDOW_PATTERN: config.layer_types.index(_FULL) + 1,
        rope.FREQ_BASE: config.rope_parameters[_FULL]["rope_theta"],
    }


def _add(writer, key, value):
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    writer.add_key_value(key, value, gguf.GGUFValueType[kinds[type(value)]])


def _tensors(model):
    """numpy arrays by GGUF's names, with norms as llama.cpp writes them."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, model.config.num_hidden_layers)
    found = {}
    for name, parameter in model.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight",))
        found[stored] = parameter.detach().numpy() + float("norm" in name)
    return found
