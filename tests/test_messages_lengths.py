"""No error message holds more of a user's value than tells what it is, whatever comes where."""

import inspect

import numpy as np
import pytest

import keras_t5gemma2 as k
from keras_t5gemma2.config import AttentionConfig, StackConfig
from keras_t5gemma2.messages import cause, shown_names, shown_path
from keras_t5gemma2.preprocessing.denoising_preprocessor import T5Gemma2DenoisingPreprocessor

pytestmark = pytest.mark.once
Q = "Spell 4268 in German."
ROWS = {"encoder_text": [Q] * 2, "decoder_text": ["vier"] * 2}
MOST = 2000


class _Long:
    def __repr__(self):
        return "z" * 300_000


HUGE = {
    "string": "x" * 300_000,
    "bytes": b"\xff" * 300_000,
    "list": ["y" * 300] * 1000,
    "nested": [[["w" * 3000]] * 3],
    "dict": {f"key_{i}": "v" * 10 for i in range(10_000)},
    "long key": {"k" * 300_000: 1},
    "array": np.full((100, 300), np.nan),
    "strings": np.array(["u" * 1000] * 100, object),
    "number": 10**4000,
    "object": _Long(),
}


@pytest.fixture
def lm():
    lm = k.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy", optimizer="sgd")
    return lm


def _of_task(lm, path):
    """(name, function of one bad value) of every argument of the task's methods."""
    for key in ("encoder_text", "images", "decoder_text", "other"):
        yield f"generate {key}", lambda v, key=key: lm.generate({**_one(), key: v})
        yield f"encode {key}", lambda v, key=key: lm.encode({**_one(), key: v})
        yield f"score {key}", lambda v, key=key: lm.score({**_one(), key: v})
        yield f"fit {key}", lambda v, key=key: lm.fit({**ROWS, key: v}, verbose=0)
        yield f"fit {key} of a row", lambda v, key=key: lm.fit({**ROWS, key: ["a", v]}, verbose=0)
        yield f"precompute {key}", lambda v, key=key: lm.precompute({**_one(), key: v}, verbose=0)
        yield f"stream {key}", lambda v, key=key: next(lm.stream({**_one(), key: v}))
    yield from _arguments(lm.generate, {"inputs": Q, "max_new_tokens": 2})
    yield from _arguments(lm.stream, {"inputs": Q, "max_new_tokens": 2}, next)
    yield from _arguments(lm.encode, {"inputs": Q})
    yield from _arguments(lm.score, {"inputs": _one()})
    yield from _arguments(lm.precompute, {"x": ROWS, "verbose": 0})
    yield from _arguments(lm.fit, {"x": ROWS, "verbose": 0}, without=("epochs", "verbose"))
    yield from _arguments(lm.evaluate, {"x": ROWS, "verbose": 0})
    yield from _arguments(lm.enable_lora, {"rank": 2})
    for name in ("set_adapter", "remove_adapter", "load_adapter", "load_peft_adapter"):
        yield from _arguments(getattr(lm, name), {})
    yield from _arguments(lm.quantize, {"mode": "int8"})
    yield from _arguments(lm.save_adapter, {"path": path / "a"})
    yield from _arguments(lm.export, {"filepath": path / "e"}, without=("verbose",))
    yield from _arguments(lm.export_to_transformers, {"path": path / "t"})
    yield from _arguments(lm.save_to_preset, {"preset_dir": path / "p"})
    yield from _arguments(lm.save_to_keras_hub_preset, {"path": path / "h"})
    yield "compile", lambda v: k.T5Gemma2Seq2SeqLM(lm.backbone).compile(sampler=v)


def _of_others(lm, path):
    """As `_of_task`, of the other classes and functions."""
    task, size = k.T5Gemma2Seq2SeqLM, lm.preprocessor.image_converter.image_size
    for cls in (task, k.T5Gemma2Tokenizer, k.T5Gemma2Backbone):
        yield from _arguments(cls.from_preset, {"preset": "t5gemma2_tiny"})
    for name in ("dtype", "quantize", "text_only", "quantise", "encoder_sequence_length"):
        yield f"from_preset {name}", lambda v, n=name: task.from_preset("t5gemma2_tiny", **{n: v})
    pre, converter, tokenizer = (
        lm.preprocessor,
        lm.preprocessor.image_converter,
        lm.preprocessor.tokenizer,
    )
    yield "preprocessor", pre
    yield from _arguments(pre.call, {"x": ROWS})
    yield from _arguments(pre.generate_preprocess, {"x": ROWS})
    yield from _arguments(pre.generate_postprocess, {})
    yield from _arguments(type(pre), {"tokenizer": tokenizer})
    denoising = T5Gemma2DenoisingPreprocessor
    yield from _arguments(denoising, {"tokenizer": tokenizer})
    yield "converter", converter
    yield "converter of a list", lambda v: converter([v])
    yield "crops", converter.original_and_crops
    yield from _arguments(type(converter), {"image_size": size})
    yield "unknown of a converter", lambda v: type(converter)(size, scales=v)
    yield "tokenizer", tokenizer
    for name in ("detokenize", "id_to_token", "token_to_id", "set_proto"):
        yield name, getattr(k.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny"), name)
    for name in ("proto", "dtype", "add_bos", "sequence_length", "unknown"):
        yield f"Tokenizer {name}", lambda v, name=name: k.T5Gemma2Tokenizer(**{name: v})
    yield from _arguments(k.evaluate_generation, {"model": lm, "data": ROWS, "verbose": 0})
    for cls in (AttentionConfig, StackConfig):
        yield from _arguments(cls, {})


def _one():
    return {"encoder_text": Q, "decoder_text": "vier"}


def _arguments(function, given, use=lambda result: result, without=()):
    for name, parameter in inspect.signature(function).parameters.items():
        if name in without or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        label = f"{getattr(function, '__qualname__', function)} {name}"
        yield label, lambda v, name=name: use(function(**{**given, name: v}))


def _too_long(calls, kinds):
    """What says too much, and how many calls raised anything."""
    found, raised = [], 0
    for name, call in calls:
        for kind in kinds:
            try:
                call(HUGE[kind])
            except Exception as error:
                raised += 1
                while error is not None:
                    if len(str(error)) >= MOST:
                        found.append(f"{name}, {kind}: {type(error).__name__} {str(error)[:200]}")
                    error = error.__cause__
    return found, raised


ALL = pytest.param(list(HUGE), id="all", marks=pytest.mark.slow)


@pytest.mark.parametrize("kinds", [["long key"], ALL])
@pytest.mark.parametrize("calls", [_of_task, _of_others])
def test_messages_are_short(lm, tmp_path, calls, kinds):
    found, raised = _too_long(calls(lm, tmp_path), kinds)
    assert not found, "\n".join(found)
    assert raised > 60 * len(kinds)


def test_five_megabytes_of_bytes_name_the_row(lm):
    rows = {"encoder_text": ["a", "<start_of_image>"], "images": [None, b"\x07" * 5_000_000]}
    with pytest.raises(ValueError, match="In row 1, image 0: .* an image of 5000000 bytes") as info:
        lm.generate(rows)
    assert len(str(info.value)) < MOST
    with pytest.raises((TypeError, ValueError), match="row 1") as info:
        lm.generate({"encoder_text": ["a", b"\xff" * 5_000_000]})
    assert len(str(info.value)) < MOST


def test_lists_of_names_are_cut():
    assert shown_names(["a", "b"]) == "'a', 'b'"
    assert shown_names(map(str, range(100))).endswith("'7' and 92 more")
    assert len(shown_names(["n" * 10_000] * 100)) < 900


def test_paths_are_shown_whole_unless_they_are_none():
    path = "/" + "d" * 200
    assert shown_path(path) == f"'{path}'"
    assert len(shown_path("d" * 5000)) <= 80


def test_causes_are_cut_and_without_the_file():
    error = FileNotFoundError(2, "No such file", "n" * 5000)
    assert cause(error) == "No such file"
    assert cause(KeyError()) == "KeyError"
    assert len(cause(ValueError("v" * 5000))) == 200
