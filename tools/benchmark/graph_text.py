"""Rows per second of `tf.data` pipelines, tokenised by a Python call and in the graph.

KERAS_BACKEND=tensorflow python tools/benchmark/graph_text.py
"""

import sys
import time

import tensorflow as tf

import keras_t5gemma2
from keras_t5gemma2.export.strings import text_graph

_ROWS, _REPEATS = 4_000, 3


def rows_per_second(data):
    """The best of some passes over a data set."""
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for _ in data:
            pass
        best = min(best, time.perf_counter() - began)
    return _ROWS / best


def main():
    """Prints a table."""
    tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    text = text_graph(tokenizer, tokenizer.vocabulary_size())
    texts = [f"Write {1_000 + number}-12-17 in Hindi." for number in range(_ROWS)]
    data = tf.data.Dataset.from_tensor_slices(texts)
    print("| rows at a time | Python call | in the graph |\n| ---: | ---: | ---: |")
    for size in (1, 32, 256):
        batches = data.batch(size)
        found = [rows_per_second(batches.map(function)) for function in (tokenizer, text.encode)]
        print(f"| {size} | {found[0]:,.0f} | {found[1]:,.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
