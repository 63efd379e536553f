"""Tiny random models of the reference implementation, to compare with and to load."""

import tempfile

import torch
from checkpoints import load_backbone
from keras import ops
from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

VOCABULARY_SIZE = 101
START_OF_IMAGE, END_OF_IMAGE, IMAGE = 5, 6, 7
TOKENS_PER_IMAGE = 4
IMAGE_SIZE = 28

_SLIDING, _FULL = "sliding_attention", "full_attention"
_ROPE = {
    _FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    _SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
}
_TEXT = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 40,
    "head_dim": 8,
    "query_pre_attn_scalar": 11,
    "sliding_window": 6,
    "max_position_embeddings": 512,
    "rope_parameters": _ROPE,
}
_ENCODER = {
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": [_SLIDING, _FULL, _SLIDING],
}
_DECODER = {
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "layer_types": [_SLIDING, _SLIDING, _FULL, _SLIDING],
}
_VISION = {
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": IMAGE_SIZE,
    "patch_size": 7,
    "vision_use_head": False,
}


def tiny_reference(
    seed=0,
    text=None,
    encoder=None,
    decoder=None,
    vision=None,
    model_class=T5Gemma2ForConditionalGeneration,
    **overrides,
):
    """A random model of the reference in float32 and evaluation mode, by default to generate.

    Every weight is random, the norms and the end-of-image vector too: nothing is zero, or one,
    by accident. By default encoder and decoder differ in depth, heads and MLP width; images are
    28 x 28 pixels and become 4 tokens; the vocabulary has 101 ids, of which 5, 6 and 7 stand
    for the start and end of an image and for its tokens.

    Args:
        seed: int. Of the weights; torch's own generator is left as it was.
        text: dict of config values of both stacks.
        encoder: dict of config values of the encoder's stack, which win over those of `text`.
        decoder: dict, the same for the decoder. `num_hidden_layers` needs `layer_types` with it.
        vision: dict of config values of the vision tower.
        model_class: the class of the reference.
        **overrides: config values of the whole model, such as `dropout_rate=0.1`.

    Returns:
        The torch module.
    """
    config = T5Gemma2Config(**tiny_config(text, encoder, decoder, vision, **overrides))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_weight(name, parameter, generator))
    return model.eval()


def tiny_config(text=None, encoder=None, decoder=None, vision=None, **overrides):
    """The dict that `tiny_reference` makes its configuration from; the same arguments."""
    text = {**_TEXT, **(text or {})}
    return {
        "encoder": {
            "text_config": {**text, **_ENCODER, **(encoder or {})},
            "vision_config": {"model_type": "siglip_vision_model", **_VISION, **(vision or {})},
            "mm_tokens_per_image": TOKENS_PER_IMAGE,
            "boi_token_index": START_OF_IMAGE,
            "eoi_token_index": END_OF_IMAGE,
        },
        "decoder": {**text, **_DECODER, **(decoder or {})},
        "image_token_index": IMAGE,
        **overrides,
    }


def save_reference(model, directory):
    """Writes `config.json` and `model.safetensors` of a reference model; returns `directory`."""
    model.save_pretrained(directory)
    return directory


def load_ours(model_or_directory, **options):
    """Our backbone with the weights of a reference model, or of a directory it was saved to.

    Args:
        model_or_directory: the torch module, or a path.
        **options: of `load_backbone`, such as `dtype="bfloat16"`.
    """
    if not isinstance(model_or_directory, torch.nn.Module):
        return load_backbone(model_or_directory, **options)
    with tempfile.TemporaryDirectory() as directory:
        return load_backbone(save_reference(model_or_directory, directory), **options)


def our_logits(backbone, inputs):
    """Float32 logits, (batch, decoder length, vocabulary), as a numpy array.

    Compiled where the backend compiles: op by op, JAX takes a minute.
    """
    hidden = backbone.predict_on_batch(backbone.complete(inputs))["decoder_sequence_output"]
    logits = backbone.token_embedding(ops.convert_to_tensor(hidden), reverse=True)
    return ops.convert_to_numpy(ops.cast(logits, "float32"))


def random_weight(name, parameter, generator):
    """Matrices keep the variance of what they multiply; the rest is noise about its usual value."""
    noise = torch.randn(parameter.shape, generator=generator)
    if "norm" in name and name.endswith(".weight"):
        usual = 1.0 if "vision_tower" in name else 0.0  # a text norm multiplies by 1 + weight
        return usual + 0.2 * noise
    if parameter.ndim == 1:
        return 0.2 * noise
    if "embed_tokens" in name or "position_embedding" in name:
        return 0.1 * noise
    inputs = parameter.shape[0] if "projection_weight" in name else parameter[0].numel()
    return noise * inputs**-0.5
