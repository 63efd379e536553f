"""The same work on this package, on keras-hub's T5Gemma 2 and on transformers.

A contender is made of a case and has a method for each work. Each gives a function without
arguments that does the work once and waits for it.
"""

import dataclasses
import pathlib
import tempfile

import numpy as np

from t5gemma2_cli.benchmarks.sizes import Sizes, write_config

# Tokens of the decoder's prompt in "prefill"; with the first new token one bucket of length.
PROMPT = 128
# The most new tokens in "decode": within one bucket, so that one program serves them all.
MOST_NEW = 32
RANK = 16
# Rows of a data set in "rows" and "loop", and new tokens of each.
ROWS, NEW = 32, 16
_SHORTEST_ROW = 16
_START = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        work: one of `WORKS`.
        implementation: one of `CONTENDERS`.
        backend: string.
        dtype: "float32" or "bfloat16".
        batch: int. Rows.
        length: int. Tokens of each row on the encoder's side.
        tokens: int. Tokens of each row on the decoder's side, in training.
        sizes: dict of the fields of `Sizes`.
        checkpoint: path of a directory with weights, for "load".
        samples: int. How often the work is timed in one process.
    """

    work: str
    implementation: str
    backend: str
    dtype: str = "float32"
    batch: int = 1
    length: int = 512
    tokens: int = 1
    sizes: dict = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    samples: int = 3

    @property
    def vision(self):
        return "published" if self.work in ("text", "load") else "none"

    def shape(self):
        """The `Sizes` of the model that does the work."""
        sizes = Sizes(**self.sizes)
        # A step of the decoder takes as long behind one layer of the encoder as behind all, and
        # the encoder's time is what its own would be lost in.
        return dataclasses.replace(sizes, encoder_layers=1) if self.work == "decode" else sizes

    def ids(self, length):
        rng = np.random.default_rng(0)
        return rng.integers(3, self.shape().vocabulary // 2, (self.batch, length)).astype("int32")

    def prompt(self, length):
        ids = self.ids(length)
        ids[:, 0] = _START
        return ids

    def mask(self):
        """(batch, length) int32, of rows of many lengths in no order."""
        lengths = np.random.default_rng(1).integers(
            min(_SHORTEST_ROW, self.length), self.length + 1, self.batch
        )
        return (np.arange(self.length) < lengths[:, None]).astype("int32")


_DECODER = ("decoder_token_ids", "decoder_padding_mask")


class _Keras:
    """What keras-hub's model and ours have in common."""

    def __init__(self, case):
        self.case = case

    def build(self):
        with tempfile.TemporaryDirectory() as directory:
            write_config(directory, self.case.shape(), self.case.vision)
            self._make(directory, load_weights=False)

    def load(self):
        self._make(self.case.checkpoint, load_weights=True)

    def encode(self):
        import keras

        names = ("encoder_token_ids", "encoder_padding_mask")
        inputs = {name: self.lm.backbone.input[name] for name in names}
        encoder = keras.Model(inputs, self.lm.backbone.output["encoder_sequence_output"])
        arrays = {name: self._inputs(1)[name] for name in names}
        return lambda: encoder.predict_on_batch(arrays)

    def prefill(self):
        return lambda: self.generate(PROMPT, 1)

    def text(self):
        inputs = self._complete(self._inputs(1))
        return lambda: self.lm.predict_on_batch(inputs)

    def train(self):
        self._enable_lora()
        tokens = self.case.tokens
        inputs = self._complete(self._inputs(tokens))
        labels, weights = self.case.ids(tokens), np.ones((self.case.batch, tokens), "float32")
        return lambda: self.lm.train_on_batch(inputs, labels, weights)

    def rows(self):
        inputs = {**self._inputs(1), "encoder_padding_mask": self.case.mask()}
        return lambda: self._generate(inputs, self.case.tokens)

    def loop(self):
        inputs = {**self._inputs(1), "encoder_padding_mask": self.case.mask()}
        rows = [{k: x[i : i + 1] for k, x in inputs.items()} for i in range(self.case.batch)]
        return lambda: [self._generate(row, self.case.tokens) for row in rows]

    def _inputs(self, tokens):
        encoder, decoder = self.case.ids(self.case.length), self.case.prompt(tokens)
        return {
            "encoder_token_ids": encoder,
            "encoder_padding_mask": np.ones_like(encoder),
            "decoder_token_ids": decoder,
            "decoder_padding_mask": np.ones_like(decoder),
        }


class Ours(_Keras):
    jit_compile: str | bool = "auto"

    def _make(self, directory, load_weights):
        import keras_t5gemma2

        backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset(
            directory,
            load_weights=load_weights,
            text_only=self.case.vision == "none",
            dtype=self.case.dtype,
        )
        self.lm = keras_t5gemma2.T5Gemma2Seq2SeqLM(backbone)
        self.lm.compile(sampler="greedy", optimizer="adam", jit_compile=self.jit_compile)

    def _complete(self, inputs):
        return self.lm.backbone.complete(inputs)

    def _enable_lora(self):
        self.lm.enable_lora(RANK)

    def generate(self, prompt_length, new_tokens):
        return self._generate(self._inputs(prompt_length), new_tokens)

    def _generate(self, inputs, new_tokens):
        return self.lm.generate(inputs, max_new_tokens=new_tokens, stop_token_ids=None, verbose=0)


class OursCompiled(Ours):
    """On torch, where steps of decoding are compiled only if asked for."""

    jit_compile = True


class KerasHub(_Keras):
    def _make(self, directory, load_weights):
        import keras_hub

        backbone = keras_hub.models.T5Gemma2Backbone.from_preset(
            str(directory), load_weights=load_weights, dtype=self.case.dtype
        )
        self.lm = keras_hub.models.T5Gemma2Seq2SeqLM(backbone)
        self.lm.compile(sampler="greedy", optimizer="adam")

    def _complete(self, inputs):
        """With the empty image that its own preprocessor gives a text."""
        if self.lm.backbone.vision_encoder is None:
            return inputs
        size = self.lm.backbone.vision_encoder.image_size
        rows = len(inputs["encoder_token_ids"])
        images = np.zeros((rows, 1, size, size, 3), "float32")
        return {**inputs, "images": images, "vision_indices": np.zeros((rows, 256), "int32")}

    def _enable_lora(self):
        attention = ["query_dense", "key_dense", "value_dense", "output_dense"]
        mlp = ["gate_proj", "up_proj", "down_proj"]
        self.lm.backbone.enable_lora(RANK, target_layer_names=[*attention, *mlp])
        self.lm.compile(sampler="greedy", optimizer="adam")

    def generate(self, prompt_length, new_tokens):
        """It pads prompts to the length of the output, and compiles for each length.

        From a prompt of one token, lengths are as if most tokens were wanted, and all before the
        last `new_tokens` are prompt: what differs between two calls is nothing but steps.
        """
        length = prompt_length + (MOST_NEW if prompt_length == 1 else new_tokens)
        inputs = self._complete(self._inputs(length))
        inputs["decoder_padding_mask"][:, length - new_tokens :] = 0
        return self.lm.generate(inputs, stop_token_ids=None)

    def _generate(self, inputs, new_tokens):
        prompt = {k: np.pad(inputs[k], [(0, 0), (0, new_tokens)]) for k in _DECODER}
        return self.lm.generate(self._complete({**inputs, **prompt}), stop_token_ids=None)


class Transformers:
    def __init__(self, case):
        self.case = case

    def build(self):
        import torch
        import transformers

        with tempfile.TemporaryDirectory() as directory:
            vision = "published" if self.case.vision == "published" else "tiny"
            write_config(directory, self.case.shape(), vision)
            config = transformers.AutoConfig.from_pretrained(directory)
        model = transformers.AutoModelForSeq2SeqLM.from_config(
            config, dtype=getattr(torch, self.case.dtype)
        )
        self._finish(model)

    def load(self):
        import torch
        import transformers

        dtype = getattr(torch, self.case.dtype)
        self._finish(
            transformers.AutoModelForSeq2SeqLM.from_pretrained(self.case.checkpoint, dtype=dtype)
        )

    def _finish(self, model):
        self.model = model.eval()
        # No id ends a row.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.model.generation_config.bos_token_id = _START

    def encode(self):
        import torch

        encoder = self.model.get_encoder()
        ids = self._tensor(self.case.ids(self.case.length))

        @torch.inference_mode()
        def run():
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))

        return run

    def prefill(self):
        return lambda: self.generate(PROMPT, 1)

    def text(self):
        import torch

        ids = self._tensor(self.case.ids(self.case.length))
        decoder_ids = self._tensor(self.case.prompt(1))

        @torch.inference_mode()
        def run():
            mask = torch.ones_like(ids)
            self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids)

        return run

    def train(self):
        import peft
        import torch

        attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
        mlp = ["gate_proj", "up_proj", "down_proj"]
        lora = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[*attention, *mlp])
        model = peft.get_peft_model(self.model, lora).train()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
        ids = self._tensor(self.case.ids(self.case.length))
        labels = self._tensor(self.case.ids(self.case.tokens))

        def run():
            optimizer.zero_grad()
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
            outputs.loss.backward()
            optimizer.step()

        return run

    def rows(self):
        ids, mask = self.case.ids(self.case.length), self.case.mask()
        return lambda: self._generate(ids, mask, self.case.prompt(1), self.case.tokens)

    def loop(self):
        ids, mask = self.case.ids(self.case.length), self.case.mask()
        rows = [row[seen == 1][None] for row, seen in zip(ids, mask, strict=True)]
        prompt = self.case.prompt(1)[:1]
        return lambda: [
            self._generate(row, np.ones_like(row), prompt, self.case.tokens) for row in rows
        ]

    def generate(self, prompt_length, new_tokens):
        ids = self.case.ids(self.case.length)
        self._generate(ids, np.ones_like(ids), self.case.prompt(prompt_length), new_tokens)

    def _generate(self, ids, mask, prompt, new_tokens):
        import torch

        with torch.inference_mode():
            return self.model.generate(
                input_ids=self._tensor(ids),
                attention_mask=self._tensor(mask),
                decoder_input_ids=self._tensor(prompt),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
            )

    def _tensor(self, ids):
        import torch

        return torch.from_numpy(ids).long()


CONTENDERS = {
    "ours": Ours,
    "ours compiled": OursCompiled,
    "keras-hub": KerasHub,
    "transformers": Transformers,
}

# What a user writes first; and what of it is not the implementation itself.
IMPORTS = {
    "ours": ("import keras_t5gemma2", "import keras, keras_hub"),
    "keras-hub": ("import keras_hub", "import keras"),
    "transformers": ("from transformers import T5Gemma2ForConditionalGeneration", "import torch"),
}


def write_checkpoint(directory, sizes):
    """Random bfloat16 weights of the published size, in the reference's format and one file."""
    import ml_dtypes
    from safetensors.numpy import save_file

    from keras_t5gemma2 import T5Gemma2Backbone
    from keras_t5gemma2.checkpoints.transformers.names import rows
    from keras_t5gemma2.model.loading import shapes_only

    write_config(directory, sizes, "published")
    backbone = shapes_only(lambda: T5Gemma2Backbone.from_preset(directory, load_weights=False))
    shapes = {variable.path: tuple(variable.shape) for variable in backbone.weights}
    rng = np.random.default_rng(0)
    noise = (0.02 * rng.standard_normal(1 << 20, "float32")).astype(ml_dtypes.bfloat16)
    tower = "model.encoder.vision_tower."
    tensors = {
        # As in the published files, whose names are the only ones that keras-hub knows.
        row.name.replace(tower, f"{tower}vision_model."): np.resize(
            noise, row.layout.from_variable_shape(shapes[row.path])
        )
        for row in rows(backbone.config)
    }
    save_file(tensors, pathlib.Path(directory, "model.safetensors"), {"format": "pt"})
