"""Small models of the package, with random weights everywhere: nothing is zero by accident."""

import dataclasses

import numpy as np

from keras_t5gemma2.config import AttentionConfig, BackboneConfig, StackConfig, VisionConfig
from keras_t5gemma2.model.backbone import T5Gemma2Backbone

END_OF_IMAGE, IMAGE = 6, 7

LOCAL = AttentionConfig(num_heads=6, num_kv_heads=3, head_dim=8, window=5)
FULL = dataclasses.replace(LOCAL, window=None, rope_theta=1e6, rope_factor=8.0)
ENCODER = StackConfig(hidden_dim=28, mlp_dim=44, layers=(LOCAL, FULL, LOCAL))
DECODER = StackConfig(hidden_dim=28, mlp_dim=36, layers=(LOCAL, FULL))
VISION = VisionConfig(
    image_size=28,
    patch_size=7,
    hidden_dim=24,
    mlp_dim=40,
    num_layers=2,
    num_heads=3,
    tokens_per_image=4,
)
TEXT_CONFIG = BackboneConfig(
    vocabulary_size=101,
    encoder=ENCODER,
    decoder=DECODER,
    end_of_image_token_id=END_OF_IMAGE,
    image_token_id=IMAGE,
)
CONFIG = dataclasses.replace(TEXT_CONFIG, vision=VISION)
# For what does not hang on the number and kinds of layers: it compiles in a third of the time.
SMALL_CONFIG = dataclasses.replace(
    TEXT_CONFIG,
    encoder=dataclasses.replace(ENCODER, layers=(LOCAL,)),
    decoder=dataclasses.replace(DECODER, layers=(LOCAL,)),
)


def tiny_backbone(config=CONFIG, dtype=None, seed=0):
    """A backbone whose every weight is random."""
    backbone = T5Gemma2Backbone(config, dtype=dtype)
    randomize(backbone, seed)
    return backbone


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in sorted(model.weights, key=lambda weight: weight.path):
        fan_in = weight.shape[0] if len(weight.shape) == 2 else 1
        scale = 0.2 if len(weight.shape) == 1 else fan_in**-0.5
        usual = 1.0 if weight.path.endswith("gamma") else 0.0
        weight.assign(usual + scale * rng.normal(size=weight.shape))


def token_inputs(rng, encoder_lengths, decoder_lengths, side="right", images=0):
    """Inputs of rows of these lengths, padded on one side; `images` per row at its start."""
    encoder = _padded(rng, encoder_lengths, side)
    decoder = _padded(rng, decoder_lengths, side)
    inputs = {
        "encoder_token_ids": encoder[0],
        "encoder_padding_mask": encoder[1],
        "decoder_token_ids": decoder[0],
        "decoder_padding_mask": decoder[1],
    }
    if images:
        tokens = images * VISION.tokens_per_image
        for row, mask in zip(*encoder, strict=True):
            row[np.flatnonzero(mask)[1 : 1 + tokens]] = IMAGE
        shape = (len(encoder_lengths), images, VISION.image_size, VISION.image_size, 3)
        inputs["images"] = rng.uniform(-1, 1, size=shape).astype("float32")
    return inputs


def _padded(rng, lengths, side):
    longest = max(lengths)
    ids, mask = np.zeros((2, len(lengths), longest), "int32")
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[row, where] = rng.integers(10, 101, size=length)
        mask[row, where] = 1
    return ids, mask
