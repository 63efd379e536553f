"""What quantization-aware training wins back: `t5gemma2_tiny` at 4 bits, a scale for each column.

KERAS_BACKEND=torch python tools/tiny/qat_study.py

The float model teaches its rounded copy on generated rows. Before, each column is clipped where
rounding it then costs least: a few large weights make the steps of all others coarse. Reported are,
on rows that neither has been trained on, the mean KL divergence of each target token to the float
model, and the mean log-likelihood of the targets, after plain quantization, after clipping alone,
and after training.
"""

import argparse
import time

import data
import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import Distillation, T5Gemma2Seq2SeqLM
from keras_t5gemma2.quantization.lattices import rounded
from keras_t5gemma2.quantization.schemes import config_of_name, scheme_of


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mode", default="int4/-1")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--num-samples", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=200)
    arguments = parser.parse_args()
    keras.config.disable_interactive_logging()
    for line in study(arguments):
        print(line, flush=True)


def study(arguments):
    """Lines of Markdown."""
    keras.utils.set_random_seed(0)
    models = (T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny") for _ in range(4))
    teacher, plain, cut, trained = models
    count = arguments.steps * arguments.batch_size
    rows, held_out = training_rows(count, seed=1), held_out_rows(arguments.held_out)
    for lm in (cut, trained):
        clip(lm, arguments.mode)
    for lm in (plain, cut):
        lm.quantize(arguments.mode)
    trained.prepare_qat(arguments.mode)
    trained.compile(optimizer(arguments.rate, arguments.steps))
    start = time.perf_counter()
    learning = Distillation(teacher, num_samples=arguments.num_samples)
    trained.fit(rows, distillation=learning, batch_size=arguments.batch_size, verbose=0)
    seconds = time.perf_counter() - start
    trained.quantize()
    yield f"{arguments.mode}, {arguments.steps} steps of {arguments.batch_size}, {seconds:.0f} s"
    yield "| model | KL to floats | log-likelihood of the targets |"
    yield "| --- | ---: | ---: |"
    named = {"floats": teacher, "quantized": plain, "clipped": cut, "trained": trained}
    for name, lm in named.items():
        found = divergence(teacher, lm, held_out), likelihood(lm, held_out)
        yield f"| {name} | {found[0]:.5f} | {found[1]:.4f} |"


def optimizer(rate, steps):
    """AdamW without decay. Larger steps than these undo what they win: weights cross roundings."""
    warmup = min(10, steps // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1 * rate, steps - warmup, warmup_target=rate, warmup_steps=warmup
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.0, global_clipnorm=1.0, beta_2=0.99)


def clip(lm, mode):
    """Clips each column of a matrix, and token of the table, where its rounding then errs least."""
    scheme = scheme_of(config_of_name(mode))
    for layer in (*lm.adapter_set.layers().values(), lm.backbone.token_embedding):
        variable, axis = layer.matrix_variable, layer.axis
        matrix = ops.convert_to_numpy(variable.value)
        limit = np.abs(matrix).max(axis=axis, keepdims=True)
        least, best = np.full_like(limit, np.inf), matrix
        for share in np.linspace(1.0, 0.4, 25, dtype="float32"):
            clipped = np.clip(matrix, -share * limit, share * limit)
            found = ops.convert_to_numpy(rounded(clipped, scheme, axis, "float32", "float32"))
            error = np.square(found - matrix).sum(axis=axis, keepdims=True)
            best = np.where(error < least, clipped, best)
            least = np.minimum(error, least)
        variable.assign(best)


def training_rows(count, seed):
    sampler, rng = data.Sampler(None), np.random.default_rng(seed)
    return _texts([sampler.text(rng) for _ in range(count)])


def held_out_rows(count):
    """Rows of values that the preset has not been trained on."""
    found = data.held_out_examples(count // 3)
    tasks = ("number spelling", "date formatting", "gaps")
    return _texts([example for task in tasks for example in found[task]])


def _texts(examples):
    rows = data.rows_of(examples)
    return {key: rows[key] for key in ("encoder_text", "decoder_text")}


def divergence(teacher, lm, rows):
    """The mean over target tokens of KL(teacher, lm)."""
    x, _, weights = lm.preprocess_samples(rows)
    total = 0.0
    for start in range(0, len(weights), 50):
        some = {name: values[start : start + 50] for name, values in x.items()}
        logs = [
            ops.convert_to_numpy(ops.log_softmax(ops.cast(one.predict_on_batch(some), "float32")))
            for one in (teacher, lm)
        ]
        of_tokens = np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)
        total += float(np.sum(of_tokens * weights[start : start + 50]))
    return total / float(np.sum(weights))


def likelihood(lm, rows):
    """The mean log-probability of a row's target."""
    return float(np.mean(lm.score(rows)))


if __name__ == "__main__":
    main()
