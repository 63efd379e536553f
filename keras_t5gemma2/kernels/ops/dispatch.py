"""Norms, products, rotations and activations of the backend that is in use."""

import importlib

import keras

_backend = importlib.import_module(f"keras_t5gemma2.kernels.ops.{keras.config.backend()}")

argmax = _backend.argmax
by_pieces = _backend.by_pieces
gated = _backend.gated
gelu = _backend.gelu
lay_out = _backend.lay_out
logits = _backend.logits
merge_heads = _backend.merge_heads
mixture = _backend.mixture
packed_blocks = _backend.packed_blocks
packs_blocks = _backend.packs_blocks
product = _backend.product
product_of_codes = _backend.product_of_codes
reads_codes = _backend.reads_codes
rms_norm = _backend.rms_norm
rotate = _backend.rotate
screen_of = _backend.screen_of
screened_logits = _backend.screened_logits
split_heads = _backend.split_heads
state_of = _backend.state_of
take_rows = _backend.take_rows
times_blocks = _backend.times_blocks
times_codes = _backend.times_codes
