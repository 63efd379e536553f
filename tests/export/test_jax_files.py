"""Programs of JAX for several platforms: read by JAX alone, and run on the one that is here."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig, T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="of JAX")
SIZES = {"batch_size": 2, "encoder_length": 128, "decoder_length": 9, "prompt_length": 4}
PLATFORMS = ["tpu", "cuda", "cpu"]

# What a user writes, without Keras.
_RUN = """
import json, pathlib, sys
import jax, numpy as np
from safetensors.flax import load_file
path, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
weights = load_file(path / "model.safetensors")
def read(name):
    return jax.export.deserialize((path / f"{name}.cpu.jax").read_bytes()).call
encode, prefill, step = map(read, ("encode", "prefill", "step"))
inputs = dict(np.load(path.with_suffix(".npz")))
prompt = {name: inputs.pop(name) for name in list(inputs) if name.startswith("decoder")}
memory = encode(weights, inputs)
state, new = prefill(weights, {**prompt, **memory}), []
for _ in range(count):
    new.append(np.argmax(state.pop("logits"), axis=-1).astype("int32"))
    state = step(weights, {"token_ids": new[-1], **memory, **state})
print(json.dumps([np.stack(new, axis=1).tolist(), "keras" in sys.modules]))
"""


def task(dtype, **options):
    layers = tuple(AttentionConfig(2, 1, 128, window=window) for window in (64, None))
    stack = StackConfig(32, 48, layers)
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(BackboneConfig(256, stack, stack), dtype), **options)
    norm = lm.backbone.decoder.norm  # or the likeliest token would be the one before
    norm.scale.assign(3.0 * np.random.default_rng(1).normal(size=norm.scale.shape))
    lm.compile(sampler="greedy")
    return lm


def inputs_of(rng):
    encoder = token_inputs(rng, (128, 90), (4, 2))
    decoder = token_inputs(rng, (128, 90), (4, 2), side="left")
    return {n: decoder[n] if n.startswith("decoder") else x for n, x in encoder.items()}


def run(path, inputs, count):
    np.savez(path.with_suffix(".npz"), **inputs)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(path), str(count)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokens, has_keras = json.loads(done.stdout.splitlines()[-1])
    assert not has_keras
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "cache_dtype"),
    [("bfloat16", "auto"), pytest.param("float32", "int8", marks=pytest.mark.slow)],
)
def test_a_program_for_each_platform(rng, tmp_path, dtype, cache_dtype):
    """Tokens are those of `generate`, and a TPU's encoder has its kernel."""
    lm, path = task(dtype, cache_dtype=cache_dtype), tmp_path / "exported"
    lm.export(path, "jax", platforms=PLATFORMS, verbose=False, **SIZES)
    names = [f"{name}.{of}.jax" for name in ("encode", "prefill", "step") for of in PLATFORMS]
    assert sorted(file.name for file in path.iterdir()) == sorted([*names, "model.safetensors"])
    inputs = inputs_of(rng)
    outputs = lm.generate(inputs, stop_token_ids=None, max_new_tokens=5, strip_prompt=True)
    want = outputs["decoder_token_ids"][:, :5].tolist()
    assert run(path, inputs, 5) == want
    assert len({token for row in want for token in row}) > 2
    if dtype == "bfloat16":
        import jax

        for of in PLATFORMS:
            program = jax.export.deserialize((path / f"encode.{of}.jax").read_bytes())
            assert program.platforms == (of,)
            assert ("tpu_custom_call" in program.mlir_module()) == (of == "tpu")


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        ("tpu", "platforms='tpu'"),
        ([], "platforms=\\[\\]"),
        (["tpu", "npu"], "`platforms` must be one of .* Received: platforms='npu'"),
    ],
    ids=str,
)
def test_platforms_are_a_list_of_names(tmp_path, platforms, message):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    with pytest.raises(ValueError, match=message):
        lm.export(tmp_path / "a", "jax", platforms=platforms, **SIZES)
    assert not list(tmp_path.iterdir())


def test_by_default_they_are_for_the_platform_at_hand(tmp_path):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    (tmp_path / "a").mkdir()
    for name in ("encode.tpu.jax", "mine.txt"):  # of an earlier export, and a user's
        (tmp_path / "a" / name).write_text("old")
    lm.export(tmp_path / "a", "jax", verbose=False, **{**SIZES, "encoder_length": 16})
    names = {file.name for file in (tmp_path / "a").iterdir()}
    programs = {"encode.cpu.jax", "prefill.cpu.jax", "step.cpu.jax"}
    assert names == programs | {"model.safetensors", "mine.txt"}
