"""One budget of ranks shared out in three ways: `t5gemma2_tiny` learns to spell in a new language.

KERAS_BACKEND=torch python tools/tiny/rank_study.py --rank 4 --epochs 8

Numbers are spelled in Swedish, which the preset does not know. Reported is the loss on numbers that
were held out, with one rank for all layers, with ranks by the inputs (EVA), and with ranks by the
gradients of training (AdaLoRA), whose adapters are larger until the last choice.
"""

import argparse
import time

import data
import keras
import num2words
import numpy as np

from keras_t5gemma2 import AdaptiveRank, T5Gemma2Seq2SeqLM

WAYS = ("uniform", "EVA", "AdaLoRA", "PiSSA", "LoRA+")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rank", type=int, default=4, help="the mean of all layers")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    keras.config.disable_interactive_logging()
    print("| ways to share | held-out loss, each seed | ranks from | to | seconds |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for way in arguments.ways:
        print(line_of(way, arguments), flush=True)


def line_of(way, arguments):
    losses, ranks, start = [], [], time.perf_counter()
    for seed in range(arguments.seeds):
        loss, ranks = result(way, arguments, seed)
        losses.append(f"{loss:.4f}")
    seconds = (time.perf_counter() - start) / arguments.seeds
    return f"| {way} | {', '.join(losses)} | {min(ranks)} | {max(ranks)} | {seconds:.0f} |"


def result(way, arguments, seed):
    """The held-out loss after training, and the ranks of the layers."""
    keras.utils.set_random_seed(seed)
    rows, held_out = spelled(arguments.rows, seed)
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(keras.optimizers.AdamW(arguments.rate, global_clipnorm=1.0))
    callbacks, rank = [], arguments.rank
    if way == "AdaLoRA":
        steps = arguments.epochs * -(-arguments.rows // 32)
        lm.enable_lora(rank=2 * rank, alpha=2 * rank)
        numbers = {"warmup": steps // 10, "final": steps // 3, "every": max(1, steps // 50)}
        callbacks = [AdaptiveRank(rank, 2 * rank, **numbers)]
    else:
        options = {"EVA": {"init": "eva", "data": {k: v[:200] for k, v in rows.items()}}}
        options |= {"PiSSA": {"init": "pissa"}, "LoRA+": {"lora_plus": 16}}
        lm.enable_lora(rank=rank, **options.get(way, {}))
    lm.fit(rows, epochs=arguments.epochs, callbacks=callbacks, verbose=0)
    loss = lm.evaluate(held_out, return_dict=True, verbose=0)["loss"]
    own = lm.adapter_set.trained_adapters()
    ranks = callbacks[0].ranks if callbacks else {p: a.a.shape[1] for p, a in own.items()}
    return loss, list(ranks.values())


def spelled(count, seed):
    """Rows of numbers in Swedish to train on, and of others."""
    numbers = np.random.default_rng(seed).permutation(10_000)
    parts = numbers[:count], numbers[count : count + 200]
    return [
        {
            "encoder_text": [
                data.spelling(n, "de").encoder_text.replace("German", "Swedish") for n in part
            ],
            "decoder_text": [num2words.num2words(int(n), lang="sv") for n in part],
        }
        for part in parts
    ]


if __name__ == "__main__":
    main()
