"""Milliseconds of a step of greedy decoding by onnxruntime, and here, and the sizes of the files.

    KERAS_BACKEND=torch python tools/benchmark/runtimes.py
    KERAS_BACKEND=torch python tools/benchmark/runtimes.py --modes int4/32 --accuracy-level 4

The model is a preset, or with `--layers` one of the 270M shape with so many, and random weights.
Each mode of `quantize` is exported once; both sides have one thread and take turns. Ours is the
difference of a long and a short call over that of their tokens. Medians are shown.
"""

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.planning.weights import config_of

SHORT = 4  # tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=["float", "int8", "int4/32", "int4/-1"])
    parser.add_argument("--accuracy-level", type=int, default=0)
    parser.add_argument("--preset", default="t5gemma2_tiny")
    parser.add_argument("--layers", type=int, help="of each stack, instead of a preset")
    parser.add_argument("--length", type=int, default=32, help="tokens of the encoder")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for mode in options.modes:
        print(line(mode, options), flush=True)


def line(mode, options):
    """The figures of a mode, as text."""
    lm = task(options)
    level = {}
    if mode != "float":
        lm.quantize(mode)
        level = {"accuracy_level": options.accuracy_level}
    rng = np.random.default_rng(0)
    ids = rng.integers(10, lm.backbone.config.vocabulary_size - 10, (1, options.length))
    inputs = {"encoder_token_ids": ids, "decoder_token_ids": np.array([[2]])}
    for side in ("encoder", "decoder"):
        inputs[f"{side}_padding_mask"] = np.ones_like(inputs[f"{side}_token_ids"])
    inputs = {name: x.astype("int32") for name, x in inputs.items()}
    with tempfile.TemporaryDirectory() as directory:
        lengths = {"encoder_length": options.length, "decoder_length": options.tokens + 1}
        lm.export(directory, "onnx", False, batch_size=1, images=0, **lengths, **level)
        sizes = {file.stem: file.stat().st_size for file in pathlib.Path(directory).iterdir()}
        theirs = Runtime(directory)
        steps, tokens = measured(lm, theirs, inputs, options)
    same = sum(a == b for a, b in zip(*tokens, strict=True))
    size = ", ".join(f"{name} {sizes[name] / 1e6:.2f}" for name in ("encode", "prefill", "step"))
    return (
        f"{mode}: {size} MB; onnxruntime {steps[0]:.2f} ms, here {steps[1]:.2f} ms, "
        f"{steps[1] / steps[0]:.2f} times as fast; {same} of {len(tokens[0])} tokens the same"
    )


def task(options):
    if options.layers is None:
        backbone = T5Gemma2Backbone.from_preset(options.preset, text_only=True, dtype="float32")
    else:
        keras.utils.set_random_seed(0)
        whole = config_of("t5gemma2_270m_270m", text_only=True)
        stacks = {
            name: dataclasses.replace(stack, layers=stack.layers[: options.layers])
            for name, stack in (("encoder", whole.encoder), ("decoder", whole.decoder))
        }
        backbone = T5Gemma2Backbone(dataclasses.replace(whole, **stacks), dtype="float32")
    lm = T5Gemma2Seq2SeqLM(backbone)
    lm.compile(sampler="greedy")
    return lm


class Runtime:
    """The three files, as onnxruntime runs them.

    Args:
        directory: path of the files.
    """

    def __init__(self, directory):
        import onnxruntime

        chosen = onnxruntime.SessionOptions()
        chosen.intra_op_num_threads = 1
        self.sessions = {
            name: onnxruntime.InferenceSession(f"{directory}/{name}.onnx", chosen)
            for name in ("encode", "prefill", "step")
        }

    def __call__(self, name, tensors):
        session = self.sessions[name]
        taken = {node.name: tensors[node.name] for node in session.get_inputs()}
        names = [node.name.removeprefix("new_") for node in session.get_outputs()]
        return dict(zip(names, session.run(None, taken), strict=True))


def measured(lm, theirs, inputs, options):
    """Milliseconds of a step, and tokens, of onnxruntime and of ours."""
    times = [], []
    for repeat in range(options.repeats + 1):
        a, written = runtime_step(theirs, inputs, options.tokens)
        short, _ = generated(lm, inputs, SHORT)
        long, wanted = generated(lm, inputs, options.tokens)
        if repeat:
            times[0].append(a)
            times[1].append((long - short) / (options.tokens - SHORT))
    return [1000 * statistics.median(x) for x in times], (written, wanted)


def runtime_step(theirs, inputs, count):
    memory = theirs("encode", inputs)
    state, new = theirs("prefill", {**inputs, **memory}), []
    began = time.perf_counter()
    for _ in range(count):
        new.append(int(state.pop("logits").argmax()))
        state = theirs("step", {"token_ids": np.array(new[-1:], "int32"), **memory, **state})
    return (time.perf_counter() - began) / count, new


def generated(lm, inputs, count):
    began = time.perf_counter()
    asked = {"max_new_tokens": count, "stop_token_ids": None, "strip_prompt": True}
    found = lm.generate(inputs, **asked)["decoder_token_ids"][0, :count].tolist()
    return time.perf_counter() - began, found


if __name__ == "__main__":
    main()
