"""Seconds and memory of this package at published shapes, with random weights in bfloat16."""

import tempfile

import numpy as np
from device_check import devices

RANK, TARGETS, MOST_NEW = 16, 128, 32
SHAPES = {
    "270m": {},
    "1b": {"width": 1152, "mlp": 6912, "encoder_layers": 26, "decoder_layers": 26},
    "tiny": {
        **{"width": 32, "mlp": 48, "encoder_layers": 2, "decoder_layers": 2, "heads": 2},
        **{"head": 16, "vocabulary": 512, "window": 32},
    },
}


def works(model):
    """Each work as (kind, batch, tokens of a row), the most telling first."""
    if model == "tiny":
        return [("step", 1, 64), ("encode", 1, 96), ("train", 2, 64), ("step", 2, 64)]
    encodes = [("encode", 1, length) for length in (32_768, 131_072)]
    return [
        *(("step", 1, 512), ("encode", 1, 4096), ("train", 4, 512), ("step", 32, 512)),
        *encodes,
    ]


def name_of(kind, batch, length):
    """What a table calls a work."""
    label = {"step": "step, batch", "encode": "encode, batch", "train": "LoRA, batch"}[kind]
    return f"{label} {batch}, {length:,} tokens"


def records(model):
    """Yields a dict for each work; a work that fails is a finding."""
    contender = Ours(model)
    yield from measured(contender, model)


def measured(contender, model):
    sizes = devices.of_benchmarks("sizes")
    shape = sizes.Sizes(**SHAPES[model])
    for kind, batch, length in works(model):
        record = {"part": "speed", "model": model, "what": name_of(kind, batch, length)}
        try:
            devices.forget_peak()
            seconds = getattr(contender, kind)(batch, length)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".split("\n")[0][:160]
            yield {**record, "note": text}
            continue
        work = {"step": "decode"}.get(kind, kind)
        tokens = TARGETS if kind == "train" else 0
        cost = sizes.cost(work, shape, "bfloat16", batch, length, tokens)
        rows_and_tokens = batch * {"step": 1, "encode": length, "train": length + TARGETS}[kind]
        yield {
            **record,
            **{"seconds": seconds, "tokens_per_second": rows_and_tokens / seconds},
            **{"bytes": cost.moved, "operations": cost.operations},
            "peak": devices.peak_bytes(),
        }


def arrays(batch, length, vocabulary):
    ids = np.random.default_rng(0).integers(3, vocabulary // 2, (batch, length)).astype("int32")
    return ids, np.ones_like(ids)


class Ours:
    """This package on the backend in use.

    Args:
        model: a name of `SHAPES`.
    """

    def __init__(self, model):
        import keras_t5gemma2

        sizes = devices.of_benchmarks("sizes")
        self.shape = sizes.Sizes(**SHAPES[model])
        with tempfile.TemporaryDirectory() as directory:
            sizes.write_config(directory, self.shape)
            backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset(
                directory, load_weights=False, text_only=True, dtype="bfloat16"
            )
        self.lm = keras_t5gemma2.T5Gemma2Seq2SeqLM(backbone)
        self.lm.compile(sampler="greedy", optimizer="adam")
        self._has_adapter = False

    def step(self, batch, length):
        """Of a token: the difference of two numbers of new tokens, of one program."""
        ids, mask = arrays(batch, length, self.shape.vocabulary)
        start = np.full((batch, 1), 2, "int32")
        inputs = {
            **{"encoder_token_ids": ids, "encoder_padding_mask": mask},
            **{"decoder_token_ids": start, "decoder_padding_mask": np.ones_like(start)},
        }

        def seconds(count):
            options = {"max_new_tokens": count, "stop_token_ids": None, "verbose": 0}
            return devices.best_seconds(lambda: self.lm.generate(inputs, **options))

        return (seconds(MOST_NEW) - seconds(2)) / (MOST_NEW - 2)

    def encode(self, batch, length):
        from keras import ops

        from keras_t5gemma2 import kernels

        backbone = self.lm.backbone
        program = kernels.compiled(lambda _, ids, mask: backbone.encode(ids, mask), self.lm)
        ids, mask = map(ops.convert_to_tensor, arrays(batch, length, self.shape.vocabulary))
        return devices.best_seconds(lambda: devices.wait(program((), ids, mask)))

    def train(self, batch, length):
        """A step with adapters on every projection, and what it keeps computed again."""
        if not self._has_adapter:
            self.lm.enable_lora(RANK)
            self.lm.backbone.gradient_checkpointing = True
            self._has_adapter = True
        self.lm.set_adapter("default")
        ids, mask = arrays(batch, length, self.shape.vocabulary)
        labels, weights = arrays(batch, TARGETS, self.shape.vocabulary)
        inputs = {
            **{"encoder_token_ids": ids, "encoder_padding_mask": mask},
            **{"decoder_token_ids": labels, "decoder_padding_mask": weights},
        }
        inputs = self.lm.backbone.complete(inputs)
        weights = weights.astype("float32")
        try:
            return devices.best_seconds(lambda: self.lm.train_on_batch(inputs, labels, weights))
        finally:
            self.lm.set_adapter(None)
