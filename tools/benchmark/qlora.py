"""Memory of a training step of LoRA on weights of bfloat16, int8 and int4, as XLA plans it.

    KERAS_BACKEND=jax python tools/benchmark/qlora.py

A text model of the shape of the published 270M, with random weights: what is planned does not
hang on their values. "Beside" is what the step needs beside weights and optimizer at most.
"""

import argparse
import dataclasses

import jax
import keras
import numpy as np

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2Seq2SeqLM,
)

_LOCAL = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=256, window=512)
_FULL = dataclasses.replace(_LOCAL, window=None, rope_theta=1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=18, help="of each stack")
    parser.add_argument("--encoder-length", type=int, default=1024)
    parser.add_argument("--decoder-length", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    options = parser.parse_args()
    print("| weights | MB of weights | beside, MB | together, MB |")
    print("| --- | ---: | ---: | ---: |")
    for mode in (None, "int8", "int4"):
        weights, beside = measure(mode, options)
        name = mode or "bfloat16"
        together = (weights + beside) / 1e6
        print(f"| {name} | {weights / 1e6:.0f} | {beside / 1e6:.0f} | {together:.0f} |", flush=True)


def measure(mode, options):
    """Bytes of the weights, adapters and optimizer included, and of all else of a step."""
    layers = tuple(_FULL if i % 6 == 5 else _LOCAL for i in range(options.layers))
    stack = StackConfig(hidden_dim=640, mlp_dim=2048, layers=layers)
    config = BackboneConfig(options.vocabulary, stack, stack)
    lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config, dtype="bfloat16"))
    if mode is not None:
        lm.quantize(mode)
    lm.enable_lora(options.rank)
    lm.backbone.gradient_checkpointing = options.checkpointing
    lm.compile(optimizer=keras.optimizers.Adam(1e-4), weighted_metrics=None)
    lm.optimizer.build(lm.trainable_variables)
    state = [
        [jax.ShapeDtypeStruct(variable.shape, variable.dtype) for variable in variables]
        for variables in (
            lm.trainable_variables,
            lm.non_trainable_variables,
            lm.optimizer.variables,
            lm.metrics_variables,
        )
    ]
    step = jax.jit(lm.train_step, donate_argnums=0).lower(tuple(state), _batch(options))
    beside = step.compile().memory_analysis().temp_size_in_bytes
    variables = [*lm.variables, *lm.optimizer.variables]
    return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables), beside


def _batch(options):
    def ones(length):
        return np.ones((1, length), "int32")

    encoder, decoder = options.encoder_length, options.decoder_length
    x = {"encoder_token_ids": ones(encoder), "encoder_padding_mask": ones(encoder)}
    x |= {"decoder_token_ids": ones(decoder), "decoder_padding_mask": ones(decoder)}
    return x, ones(decoder), ones(decoder).astype("float32")


if __name__ == "__main__":
    main()
