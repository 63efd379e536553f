"""Milliseconds of a step of greedy decoding, with the whole head and with a screened one.

    KERAS_BACKEND=torch python tools/benchmark/head.py
    KERAS_BACKEND=jax python tools/benchmark/head.py --rows 1 4 --dtype bfloat16

The model has the shape of the 270M one, or some of its layers, and random weights. A step is the
difference of a long and a short call over that of their tokens; the heads take turns, and medians
are shown. Before, each call ran once.
"""

import argparse
import dataclasses
import statistics
import time

import keras
import numpy as np

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.planning.weights import config_of

HEADS = ("exact", "screened")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1])
    parser.add_argument("--length", type=int, default=512, help="tokens of the encoder")
    parser.add_argument("--tokens", type=int, nargs=2, default=[34, 64], help="of both calls")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config(options.layers), dtype=options.dtype))
    lm.compile(sampler="greedy")
    heads = {head: type(lm.generator)(lm, "greedy", head=head) for head in HEADS}
    for rows in options.rows:
        show(rows, options, *measured(lm, heads, rows, options))


def config(layers):
    whole = config_of("t5gemma2_270m_270m", text_only=True)
    stacks = {
        name: dataclasses.replace(stack, layers=stack.layers[:layers])
        for name, stack in (("encoder", whole.encoder), ("decoder", whole.decoder))
    }
    return dataclasses.replace(whole, **stacks)


def measured(lm, heads, rows, options):
    """Milliseconds of a step by head, and whether the tokens are the same."""
    ids = np.random.default_rng(0).integers(10, 250_000, (rows, options.length))
    prompt = np.full((rows, 1), 2)
    of_prompt = {"decoder_token_ids": prompt, "decoder_padding_mask": np.ones_like(prompt)}
    of_encoder = {"encoder_token_ids": ids, "encoder_padding_mask": np.ones_like(ids)}
    encoded = lm.encode({**of_encoder, **of_prompt})

    def run(head, count):
        began = time.perf_counter()
        asked = {"max_new_tokens": count, "stop_token_ids": None, "encoded": encoded}
        outputs = heads[head].generate(of_prompt, **asked)
        return time.perf_counter() - began, outputs["decoder_token_ids"]

    few, many = options.tokens
    steps, texts = {head: [] for head in HEADS}, {}
    for repeat in range(options.repeats + 1):
        for head in HEADS:
            short, (long, texts[head]) = run(head, few)[0], run(head, many)
            if repeat:
                steps[head].append(1000 * (long - short) / (many - few))
    medians = {head: statistics.median(values) for head, values in steps.items()}
    return medians, np.array_equal(*texts.values()), heads["screened"].head_steps


def show(rows, options, steps, is_same, counts):
    exact, screened = (steps[head] for head in HEADS)
    same = "the same tokens" if is_same else "OTHER TOKENS"
    print(
        f"{keras.config.backend()}, {options.dtype}, rows: {rows}; exact {exact:.1f} ms, "
        f"screened {screened:.1f} ms, {exact / screened:.2f} times as fast; {same}; {counts}",
        flush=True,
    )


if __name__ == "__main__":
    main()
