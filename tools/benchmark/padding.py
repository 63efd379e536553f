"""Tokens per second of `fit` on rows as a translator has them, by how batches are padded.

    KERAS_BACKEND=torch python tools/benchmark/padding.py

Most sentences are short and a few long: lengths are log-normal, around 27 tokens, and a target is
about as long as its source. Counted are the tokens of sources and targets, not what fills them up.
Every way trains the same model on the same rows: an epoch in which programs are compiled, and then
epochs that are timed, of which the ways take turns.
"""

import argparse
import statistics
import time

import keras
import numpy as np

import keras_t5gemma2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--cap", type=int, default=1024, help="tokens, of either side")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    lm = task(options)
    rows = translations(lm.preprocessor.tokenizer, options.rows, options.cap)
    _, _, weights = to_the_caps = lm.preprocessor(rows, **caps(options))
    tokens = int(to_the_caps[0]["encoder_padding_mask"].sum() + weights.sum())
    ways = {
        "to the caps": lambda: epoch(lm, _Arrays(lm, rows, options)),
        "to the longest row": lambda: epoch(lm, rows, options.batch_size, group_by_length=False),
        "grouped by length": lambda: epoch(lm, rows, options.batch_size, group_by_length=True),
    }
    first = {name: timed(run) for name, run in ways.items()}
    times = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, run in ways.items():
            times[name].append(timed(run))
    print(
        f"{keras.backend.backend()}: {options.rows} rows of {tokens / options.rows:.0f} tokens, "
        f"caps of {options.cap}, {options.batch_size} rows a step"
    )
    base = statistics.median(times["to the caps"])
    for name in ways:
        seconds = statistics.median(times[name])
        print(
            f"{name:20} {tokens / seconds:9,.0f} tokens/s {base / seconds:6.1f}x   "
            f"first epoch {first[name]:6.1f} s"
        )


def task(options):
    """A model with random weights, and the tokenizer of the embedded preset."""
    tiny = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    attention = keras_t5gemma2.AttentionConfig(
        num_heads=4, num_kv_heads=1, head_dim=options.width // 4, window=512
    )
    stack = keras_t5gemma2.StackConfig(
        hidden_dim=options.width,
        mlp_dim=4 * options.width,
        layers=(attention,) * options.layers,
    )
    size = tiny.preprocessor.tokenizer.vocabulary_size()
    config = keras_t5gemma2.BackboneConfig(vocabulary_size=size, encoder=stack, decoder=stack)
    preprocessor = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor(
        tiny.preprocessor.tokenizer, **caps(options)
    )
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM(keras_t5gemma2.T5Gemma2Backbone(config), preprocessor)
    lm.compile(optimizer=keras.optimizers.Adam(1e-4))
    return lm


def caps(options):
    return {"encoder_sequence_length": options.cap, "decoder_sequence_length": options.cap}


def translations(tokenizer, count, cap):
    """Rows of random words, their numbers of tokens as those of sentences and translations."""
    rng = np.random.default_rng(0)
    words = [" a", " the", " in", " is", " write", " number", " one", " two"]
    tokens = np.mean([len(tokenizer.tokenize(word)) for word in words])
    of_sources = np.clip(rng.lognormal(3.1, 0.65, count), 3, 0.9 * cap) / tokens
    of_targets = of_sources * rng.normal(1.05, 0.15, count).clip(0.6, 1.5)

    def texts(lengths):
        return ["".join(rng.choice(words, max(1, round(length)))) for length in lengths]

    return {"encoder_text": texts(of_sources), "decoder_text": texts(of_targets)}


class _Arrays(keras.utils.PyDataset):
    """Batches of the rows in a random order, padded to the caps."""

    def __init__(self, lm, rows, options):
        super().__init__()
        self.lm, self.rows, self.options = lm, rows, options
        self.order = np.random.default_rng(0).permutation(options.rows)

    def __len__(self):
        return -(-len(self.order) // self.options.batch_size)

    def __getitem__(self, index):
        size = self.options.batch_size
        some = self.order[index * size : (index + 1) * size]
        rows = {name: [values[i] for i in some] for name, values in self.rows.items()}
        return self.lm.preprocessor(rows, **caps(self.options))


def epoch(lm, data, batch_size=None, **options):
    keras.utils.set_random_seed(0)  # the same batches, so that nothing is compiled later
    lm.fit(data, batch_size=batch_size, verbose=0, **options)


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
