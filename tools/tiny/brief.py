"""Teaches `t5gemma2_tiny` to answer `Say 37!` in at most four characters, by rewards alone.

pip install ".[torch,tiny,evaluation]"
KERAS_BACKEND=torch python tools/tiny/brief.py --picture brief.png

Before and after, the share of samples that obey the rule is measured, and the exact match on the
held-out rows of the tasks that the model was made for.
"""

import argparse
import json
import time

import evaluate
import keras
import numpy as np

from keras_t5gemma2 import PolicyGradient, T5Gemma2Seq2SeqLM

PROMPT, MOST = "Say 37!", 4


def obeys(inputs, outputs):
    """1 for a text of at most four characters."""
    return [float(len(output) <= MOST) for output in outputs]


def share_of_samples(lm, count=1000, seed=1):
    """How many of the samples of the prompt obey the rule."""
    options = {"temperature": 1.0, "num_return_sequences": count, "seed": seed}
    return float(np.mean(obeys([], lm.generate([PROMPT], max_new_tokens=24, **options))))


def accuracies(lm, rows):
    """Exact match in percent by task, on values that no training has seen."""
    found = evaluate.evaluate(lm, rows)
    return {task: result["exact_match"] for task, result in found.items()}


def train(lm, method, steps, num_samples, rate, kl_weight, seed=0):
    """The history of a run: the rule is learned from the reward, a step of one prompt each."""
    lm.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0), sampler="greedy")
    policy = PolicyGradient(method, kl_weight, max_new_tokens=24, seed=seed)
    options = {"rewards": [obeys], "num_samples": num_samples, "policy": policy}
    return lm.fit([PROMPT], epochs=steps, verbose=0, **options).history


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="grpo", help="grpo or rloo")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--num-samples", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--kl-weight", type=float, default=0.04)
    parser.add_argument("--rows", type=int, default=100, help="held-out rows of each task")
    parser.add_argument("--picture", help="path of a picture of the curves")
    arguments = parser.parse_args()
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    before = {"share": share_of_samples(lm), "accuracy": accuracies(lm, arguments.rows)}
    print(json.dumps({"before": before}, indent=1), flush=True)
    start = time.perf_counter()
    how = arguments.method, arguments.steps, arguments.num_samples
    history = train(lm, *how, arguments.rate, arguments.kl_weight)
    seconds = round(time.perf_counter() - start, 1)
    curves = {name: [round(x, 4) for x in history[name]] for name in ("reward", "kl", "length")}
    print(json.dumps({"seconds": seconds, **curves}), flush=True)
    after = {"share": share_of_samples(lm), "accuracy": accuracies(lm, arguments.rows)}
    print(json.dumps({"after": after}, indent=1))
    if arguments.picture:
        draw(history, arguments.picture)


def draw(history, path):
    """The reward and the distance to the model as it was, by steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3))
    for axis, name in zip(axes, ("reward", "kl"), strict=True):
        axis.plot(history[name])
        axis.set(xlabel="step", title=name)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
