"""What quantization-aware training wins back: `t5gemma2_tiny` at 4 bits, a scale for each column.

KERAS_BACKEND=torch python tools/tiny/qat_study.py --steps 300

The float model teaches its rounded copy on generated rows. Reported are, on rows that neither has
been trained on, the mean KL divergence of each target token to the float model, and the mean
log-likelihood of the targets, after plain quantization and after training.
"""

import argparse
import time

import data
import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import Distillation, T5Gemma2Seq2SeqLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mode", default="int4/-1")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--held-out", type=int, default=200)
    arguments = parser.parse_args()
    keras.config.disable_interactive_logging()
    for line in study(arguments):
        print(line, flush=True)


def study(arguments):
    """Lines of Markdown."""
    keras.utils.set_random_seed(0)
    teacher, plain, trained = (T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny") for _ in range(3))
    count = arguments.steps * arguments.batch_size
    rows, held_out = training_rows(count, seed=1), held_out_rows(arguments.held_out)
    plain.quantize(arguments.mode)
    trained.prepare_qat(arguments.mode)
    schedule = keras.optimizers.schedules.CosineDecay(arguments.rate, arguments.steps)
    trained.compile(keras.optimizers.AdamW(schedule, weight_decay=0.0, global_clipnorm=1.0))
    start = time.perf_counter()
    learning = Distillation(teacher, num_samples=256)
    trained.fit(rows, distillation=learning, batch_size=arguments.batch_size, verbose=0)
    seconds = time.perf_counter() - start
    trained.quantize()
    yield f"{arguments.mode}, {arguments.steps} steps of {arguments.batch_size}, {seconds:.0f} s"
    yield "| model | KL to floats | log-likelihood of the targets |"
    yield "| --- | ---: | ---: |"
    for name, lm in (("floats", teacher), ("quantized", plain), ("trained", trained)):
        found = divergence(teacher, lm, held_out), likelihood(lm, held_out)
        yield f"| {name} | {found[0]:.5f} | {found[1]:.4f} |"


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
