"""The types of public signatures: all of them are there, and a checker holds callers to them."""

import inspect
import pathlib
import subprocess
import sys

import pytest
from public_api import functions_of, members, owners

import keras_t5gemma2

pytestmark = pytest.mark.once

PACKAGE = pathlib.Path(keras_t5gemma2.__file__).parent
ROOT = PACKAGE.parent

RIGHT = """
import pathlib

import numpy as np

import keras_t5gemma2
from keras_t5gemma2 import EvaluateGeneration, T5Gemma2Seq2SeqLM, TrainingCheckpoint

place = pathlib.Path("place")
rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}

lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True, dtype="float32")
lm = T5Gemma2Seq2SeqLM.from_preset(place / "french", quantize="int8")
lm.compile(sampler="greedy")
text: str = lm.generate("Spell 7 in Dutch.", max_new_tokens=8, stop_token_ids=(1, 107))
texts: list[str] = lm.generate(["a", "b"], num_return_sequences=2, cross_attention_cache="shared")
encoded = lm.encode({"encoder_text": "a document"})
lm.generate({"decoder_text": ["In short:"]}, encoded=encoded, assistant="prompt_lookup")
print(encoded.nbytes // 2, encoded.kind.upper())
pieces: list[str] = [piece for piece in lm.stream("Spell 7 in Dutch.")]
gaps: list[str | None] = lm.infill("one <extra_0> three", max_new_tokens=4)

callbacks = [TrainingCheckpoint(place, save_freq=500), EvaluateGeneration(rows, every=2)]
lm.fit(rows, batch_size=1, epochs=2, validation_split=0.5, callbacks=callbacks)
lm.fit([{"encoder_text": "a", "decoder_text": "b"}], columns={"question": "encoder_text"})
lm.fit(rows, distillation=keras_t5gemma2.Distillation(lm.sample_logits(rows, 4)))
score: float = lm.score(({"ids": np.ones((1, 2))}, np.ones((1, 2))))
result = keras_t5gemma2.evaluate_generation(lm, rows, metrics=["chrf", lambda a, b: 1.0])
value: float = result["chrf"]

lm.enable_lora(rank=4, target=["query", "value"], name="french")
lm.set_adapter({"french": 0.5})
lm.save_adapter(place / "french.safetensors", "french")
lm.save_to_preset(place)
lm.export_to_transformers("exported", dtype="bfloat16", adapters="peft")
lm.backbone.quantize("int4", filters="mlp")

assert lm.preprocessor.tokenizer.token_to_id("<bos>") == lm.preprocessor.tokenizer.start_token_id
count: int = lm.count_params() + lm.preprocessor.encoder_sequence_length
converter = lm.preprocessor.image_converter
levels = None if converter is None else converter.original_and_crops("bee.png").max()
local = keras_t5gemma2.AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=None)
layers = keras_t5gemma2.interleave(local, local, num_layers=6)
config = keras_t5gemma2.BackboneConfig.from_dict({"vocabulary_size": 101})
keras_t5gemma2.T5Gemma2Backbone(config, dtype="bfloat16").get_layout_map
"""

PRELUDE = """
import keras_t5gemma2
from keras_t5gemma2 import T5Gemma2Seq2SeqLM

lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
"""
# A wrong call to the error of mypy.
WRONG = {
    'lm.generate("a", max_tokens=8)': "call-arg",
    'lm.generate("a", max_new_tokens="8")': "arg-type",
    "lm.generate(7)": "arg-type",
    'lm.generate("a", cross_attention_cache="small")': "arg-type",
    'lm.stream("a", verbose="loud")': "arg-type",
    "lm.fit({}, shuffle='yes')": "arg-type",
    "lm.fit({}, columns=['encoder_text'])": "arg-type",
    'lm.enable_lora(rank="4")': "arg-type",
    "lm.enable_lora()": "call-arg",
    "lm.save_adapter(None)": "arg-type",
    "lm.set_adapter(3)": "arg-type",
    'lm.export_to_transformers("a", dtype="float8")': "arg-type",
    'T5Gemma2Seq2SeqLM.from_preset("a", embeddings="both")': "arg-type",
    'keras_t5gemma2.TrainingCheckpoint("a", save_freq="step")': "arg-type",
    'keras_t5gemma2.AttentionConfig(num_heads="4", num_kv_heads=1, head_dim=8)': "arg-type",
    'keras_t5gemma2.evaluate_generation(lm, {}, on_interrupt="stop")': "arg-type",
    "keras_t5gemma2.Distillation(3)": "arg-type",
    "lm.encode('a').kind + 1": "operator",
    "len(lm.count_params())": "arg-type",
    "T5Gemma2Seq2SeqLM(3)": "arg-type",
}


def test_every_public_signature_has_types():
    functions = {function.__qualname__: function for function in owners() if is_function(function)}
    for name, member in members().items():
        for number, function in enumerate(functions_of(member.value)):
            functions[name + (" (setter)" if number else "")] = function
    assert len(functions) > 150
    assert [text for name, f in functions.items() for text in missing(name, f)] == []


def test_missing():
    class Example:
        def half(self, a: int, b=1, *args, **kwargs: int): ...

        def whole(self, a: int = 1, *args: int) -> None: ...

    assert missing("f", Example.whole) == []
    assert missing("f", Example.half) == ["f: b", "f: args", "f: its result"]


@pytest.mark.slow
def test_the_package_and_its_use_pass_a_type_checker(tmp_path):
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    wrong.write_text("\n".join([PRELUDE.strip(), *WRONG]))
    errors = errors_of_mypy(tmp_path / "cache", PACKAGE, right, wrong)
    of_calls = [error for error in errors if error.startswith(f"{wrong}:")]
    assert [error for error in errors if error not in of_calls] == []
    found = {int(error.split(":")[1]): error.rpartition("[")[2].rstrip("]") for error in of_calls}
    first = len(PRELUDE.strip().splitlines()) + 1
    assert found == dict(enumerate(WRONG.values(), first))


def test_the_marker_of_typed_packages_is_there():
    assert (PACKAGE / "py.typed").read_bytes() == b""


def is_function(value):
    return not inspect.isclass(value)


def missing(name, function):
    """Texts about the parameters, and the result, that have no annotation."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    found = [f"{name}: {p.name}" for p in parameters if p.annotation is p.empty]
    has_result = signature.return_annotation is not signature.empty
    return found if has_result else [*found, f"{name}: its result"]


def errors_of_mypy(cache, *paths):
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]
