"""The exported functions as onnxruntime runs them, in a process without the package."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import CONFIG, SMALL_CONFIG, TEXT_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(keras.config.backend() != "torch", reason="torch writes them"),
]
PROMPT, DECODER = 4, 17  # tokens; the window of a layer is passed

# What a user writes, without Keras: greedy text of the arrays in a file.
_RUN = """
import json, sys
import numpy as np
import onnxruntime
path, count, file = sys.argv[1:]
names = ("encode", "prefill", "step")
sessions = {name: onnxruntime.InferenceSession(f"{path}/{name}.onnx") for name in names}

def run(name, tensors):
    session = sessions[name]
    taken = {node.name: tensors[node.name] for node in session.get_inputs()}
    names = [node.name.removeprefix("new_") for node in session.get_outputs()]
    return dict(zip(names, session.run(None, taken), strict=True))

inputs = dict(np.load(file))
memory = run("encode", inputs)
state = run("prefill", {**inputs, **memory})
new = []
for _ in range(int(count)):
    new.append(np.argmax(state.pop("logits"), axis=-1).astype("int32"))
    state = run("step", {"token_ids": new[-1], **memory, **state})
print(json.dumps([np.stack(new, axis=1).tolist(), "keras_t5gemma2" in sys.modules]))
"""


def written(path, inputs, count):
    np.savez(path / "inputs.npz", **inputs)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(path), str(count), str(path / "inputs.npz")],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokens, is_there = json.loads(done.stdout.splitlines()[-1])
    assert not is_there
    return tokens


def inputs_of(rng, images):
    """Encoder's rows padded at the right, and prompts at the left, both to what is exported."""
    encoder = token_inputs(rng, (13, 11), (4, 2), images=images)
    decoder = token_inputs(rng, (13, 11), (4, 2), side="left")
    inputs = {name: x for name, x in encoder.items() if not name.startswith("decoder")}
    return inputs | {name: x for name, x in decoder.items() if name.startswith("decoder")}


def array_task(config):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config))
    # Or the likeliest token would be the one before.
    norm = lm.backbone.decoder.norm
    norm.scale.assign(3.0 * np.random.default_rng(1).normal(size=norm.scale.shape))
    lm.compile(sampler="greedy")
    return lm


@pytest.mark.slow
@pytest.mark.parametrize("images", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_onnxruntime_writes_what_generate_writes(rng, tmp_path, images):
    lm = array_task(CONFIG if images else TEXT_CONFIG)
    inputs = inputs_of(rng, images)
    path, count = tmp_path / "model", DECODER - PROMPT
    sizes = {"batch_size": 2, "encoder_length": 13, "decoder_length": DECODER, "images": images}
    lm.export(path, format="onnx", verbose=False, prompt_length=PROMPT, **sizes)
    assert sorted(file.name for file in path.iterdir()) == [
        *("encode.onnx", "prefill.onnx", "step.onnx")
    ]
    found = lm.generate(inputs, stop_token_ids=None, max_new_tokens=count, strip_prompt=True)
    want = found["decoder_token_ids"][:, :count].tolist()
    assert written(path, inputs, count) == want
    assert len({token for row in want for token in row}) > 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int4/32", pytest.param("int8", marks=pytest.mark.slow)])
def test_integers_are_nodes_that_give_what_generate_gives(rng, tmp_path, mode):
    """The widths are no multiples of a block."""
    import onnx

    lm = array_task(SMALL_CONFIG)
    lm.quantize(mode)
    inputs, count = inputs_of(rng, 0), DECODER - PROMPT
    sizes = {"batch_size": 2, "encoder_length": 13, "decoder_length": DECODER, "images": 0}
    lm.export(tmp_path / "model", format="onnx", verbose=False, prompt_length=PROMPT, **sizes)
    found = lm.generate(inputs, stop_token_ids=None, max_new_tokens=count, strip_prompt=True)
    want = found["decoder_token_ids"][:, :count].tolist()
    assert written(tmp_path / "model", inputs, count) == want
    assert len({token for row in want for token in row}) > 3
    graph = onnx.load(tmp_path / "model" / "step.onnx").graph
    kinds = [node.op_type for node in graph.node]
    # Of a layer, all of its own: queries, keys, values, outputs and three of the MLP; the head.
    layers = len(lm.backbone.decoder.blocks)
    assert kinds.count("MatMulNBits") == 7 * layers + 1
    # No matrix is there in floats.
    widest = lm.backbone.config.decoder.hidden_dim**2
    floats = [x for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(x.dims)) for x in floats) < widest


@pytest.mark.parametrize("level", [1, 4, 4.0, True, "4"])
def test_levels_of_accuracy(tmp_path, level):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    sizes = {"batch_size": 1, "encoder_length": 8, "decoder_length": 8, "images": 0}
    with pytest.raises(ValueError, match=f"of a quantized model 4.*accuracy_level={level!r}"):
        lm.export(tmp_path / "model", format="onnx", accuracy_level=level, **sizes)
    assert not (tmp_path / "model").exists()


def test_other_dtypes_are_refused(tmp_path):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(TEXT_CONFIG, dtype="bfloat16"))
    sizes = {"batch_size": 1, "encoder_length": 8, "decoder_length": 8, "images": 0}
    with pytest.raises(ValueError, match=r"computes in float32.*Received: a model of bfloat16"):
        lm.export(tmp_path / "model", format="onnx", **sizes)
    assert not (tmp_path / "model").exists()
