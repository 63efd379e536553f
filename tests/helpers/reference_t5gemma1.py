"""Tiny random models of the reference's T5Gemma 1, to compare with and to load."""

import pathlib
import tempfile

import numpy as np
import torch
from reference_models import random_weight
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

from keras_t5gemma2 import T5GemmaBackbone
from keras_t5gemma2.checkpoints.transformers.reader import TransformersCheckpoint
from keras_t5gemma2.model import from_checkpoint

VOCABULARY_SIZE = 101
WINDOW = 5

_STACK = {
    "vocab_size": VOCABULARY_SIZE,
    "head_dim": 16,
    "query_pre_attn_scalar": 11,
    "sliding_window": WINDOW,
    "max_position_embeddings": 512,
    "attn_logit_softcapping": 1.0,  # where tanh is far from a line
    "final_logit_softcapping": 3.0,
    "pad_token_id": 0,
}
_ENCODER = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_DECODER = {
    "hidden_size": 40,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tiny_t5gemma1(seed=0, stack=None, model_class=T5GemmaForConditionalGeneration, **overrides):
    """A random T5Gemma 1 of the reference, in float32 and evaluation mode, computed as written.

    Encoder and decoder differ in width, depth and heads; windows are of 5 tokens.

    Args:
        seed: int. Of the weights.
        stack: dict of config values of both stacks.
        model_class: the class of the reference.
        **overrides: config values of the whole model.
    """
    values = {
        "encoder": {**_STACK, **_ENCODER, **(stack or {})},
        "decoder": {**_STACK, **_DECODER, **(stack or {})},
        "vocab_size": VOCABULARY_SIZE,
        **overrides,
    }
    config = T5GemmaConfig(**values)
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_weight(name, parameter, generator))
    return model.eval()


def load_ours(model_or_directory, **options):
    """Our backbone with the weights of a model of the reference, or of a directory."""
    if isinstance(model_or_directory, torch.nn.Module):
        with tempfile.TemporaryDirectory() as directory:
            model_or_directory.save_pretrained(directory)
            return load_ours(directory, **options)
    checkpoint = TransformersCheckpoint(pathlib.Path(model_or_directory))
    backbone = from_checkpoint.load_backbone(T5GemmaBackbone, checkpoint, **options)
    backbone.source = None
    return backbone


def text_inputs(encoder_length=WINDOW, decoder_length=17, side=None):
    """Three rows; with a `side`, a token or some of two rows are padding there."""
    rng = np.random.default_rng(0)
    encoder = rng.integers(10, VOCABULARY_SIZE, size=(3, encoder_length))
    decoder = rng.integers(10, VOCABULARY_SIZE, size=(3, decoder_length))
    inputs = {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": np.ones_like(encoder),
        "decoder_token_ids": decoder,
        "decoder_padding_mask": np.ones_like(decoder),
    }
    if side is not None:
        for name, row, count in (("encoder", 0, 1), ("decoder", 2, 4)):
            hidden = slice(0, count) if side == "left" else slice(-count, None)
            inputs[f"{name}_padding_mask"][row, hidden] = 0
    return inputs
