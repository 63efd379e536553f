"""Batches for the tiny models of the reference, and the same batches as it takes them."""

import numpy as np
import torch
from reference_models import END_OF_IMAGE, IMAGE, START_OF_IMAGE


def make_inputs(images=True, encoder_length=31, decoder_length=17):
    """Three rows of five windows, with special ids in both streams and 1, 2 and 0 images."""
    rng = np.random.default_rng(0)
    encoder = rng.integers(10, 101, size=(3, encoder_length))
    decoder = rng.integers(10, 101, size=(3, decoder_length))
    encoder[:, 14], encoder[0, 20], decoder[:, 5], decoder[:, 6] = (
        END_OF_IMAGE,
        START_OF_IMAGE,
        END_OF_IMAGE,
        START_OF_IMAGE,
    )
    decoder[:, 8] = IMAGE  # keeps its embedding
    inputs = {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": np.ones_like(encoder),
        "decoder_token_ids": decoder,
        "decoder_padding_mask": np.ones_like(decoder),
    }
    if images:
        encoder[0, 6:10] = encoder[1, 5:9] = encoder[1, 9:13] = IMAGE
        inputs["images"] = rng.uniform(-1, 1, size=(3, 2, 28, 28, 3)).astype("float32")
    return inputs


def pad(inputs, side):
    """Hides tokens at one side of row 0 and, in the decoder, of row 2."""
    inputs = {name: value.copy() for name, value in inputs.items()}
    hidden = slice(0, 5) if side == "left" else slice(-5, None)
    inputs["encoder_padding_mask"][0, hidden] = 0
    inputs["decoder_padding_mask"][2, hidden] = 0
    return inputs


def reference_arguments(inputs, dtype=torch.float32):
    """Arguments of the reference, whose decoder positions must be told of left padding."""
    mask = inputs["decoder_padding_mask"]
    arguments = {
        "input_ids": inputs["encoder_token_ids"],
        "attention_mask": inputs["encoder_padding_mask"],
        "decoder_input_ids": inputs["decoder_token_ids"],
        "decoder_attention_mask": mask,
        "decoder_position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }
    arguments = {name: torch.tensor(value) for name, value in arguments.items()}
    if "images" in inputs:
        images = inputs["images"]
        used = np.concatenate([images[0, :1], images[1]]).transpose(0, 3, 1, 2)
        arguments["pixel_values"] = torch.tensor(used, dtype=dtype)
    return arguments
