"""Models written in another format."""

import json
import re
import signal
import subprocess
import sys

import h5py
import keras
import pytest
from command_line import error_of, parsed
from command_line import run as run_command
from reference_gemma3 import tiny_gemma3, write_gguf
from tasks import TOKENIZER

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.cli.convert import TARGETS
from keras_t5gemma2.files.safetensors import read_safetensors
from t5gemma2_cli.convert import TARGETS as CHOICES

pytestmark = pytest.mark.once


def run(*arguments):
    run_command("convert", *arguments, "--quiet")


def stored(directory):
    return {
        name: (tensor.dtype.name, tensor.shape, tensor.read().tobytes())
        for name, tensor in read_safetensors(directory).items()
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The model inside the package as a directory of the reference, in bfloat16 and shards."""
    path = tmp_path_factory.mktemp("convert") / "checkpoint"
    run("t5gemma2_tiny", path, "--dtype", "bfloat16", "--shard-size", "1.5MB")
    return path


def test_there_and_back(checkpoint, tmp_path):
    """A checkpoint to a preset, and the preset to a checkpoint: in the dtype that is stored."""
    assert len(list(checkpoint.glob("model-*.safetensors"))) == 3
    run(checkpoint, tmp_path / "preset", "--to", "keras")
    policy = json.loads((tmp_path / "preset" / "config.json").read_text())["config"]["dtype"]
    assert policy["config"] == {"name": "bfloat16"}
    run(tmp_path / "preset", tmp_path / "again", "--to", "transformers")
    assert stored(tmp_path / "again") == stored(checkpoint)
    for name in ("config.json", "tokenizer.json", "processor_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint / name).read_bytes()


def test_keras_hub_there_and_back(checkpoint, tmp_path, capsys):
    options = (checkpoint, tmp_path / "preset", "--to", "keras-hub")
    run(*options, "--dry-run")
    listed = capsys.readouterr().out.splitlines()
    run(*options)
    with h5py.File(tmp_path / "preset" / "model.weights.h5") as file:
        found = []
        file.visititems(lambda name, value: found.append(name) if hasattr(value, "shape") else None)
    assert sorted(line.split("  ")[1] for line in listed[:-1]) == sorted(found)
    run(tmp_path / "preset", tmp_path / "again")
    assert stored(tmp_path / "again") == stored(checkpoint)


def test_dtype_of_a_preset(checkpoint, tmp_path):
    run(checkpoint, tmp_path / "preset", "--to", "keras", "--dtype", "float32", "--text-only")
    config = json.loads((tmp_path / "preset" / "config.json").read_text())["config"]
    assert config["dtype"]["config"] == {"name": "float32"}
    assert config["config"]["vision"] is None


@pytest.mark.parametrize("to", ["transformers", "keras"])
def test_a_dry_run_lists_what_would_be_written(to, checkpoint, tmp_path, capsys):
    options = (checkpoint, tmp_path / to, "--to", to, "--shard-size", "2MB")
    run(*options, "--dry-run")
    *lines, total = capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())
    listed = {}
    for line in lines:
        file, name, dtype, shape, _ = re.split(" {2}", line)
        listed[name] = (file, dtype, tuple(map(int, shape.split("x"))))
    assert (
        total == f"137 tensors in {len({file for file, *_ in listed.values()})} files, 4,101,952 B"
    )
    if to == "transformers":
        run(*options)
        assert listed == {
            name: (tensor.path.name, tensor.dtype.name, tensor.shape)
            for name, tensor in read_safetensors(tmp_path / to).items()
        }
    else:
        table = ("model_*.weights.h5", "bfloat16", (2560, 128))
        assert listed["embedder/table/embeddings"] == table


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    """A Gemma 3 with its tokenizer, in float16."""
    path = tmp_path_factory.mktemp("gemma3")
    tiny_gemma3(vocab_size=TOKENIZER.vocabulary_size()).half().save_pretrained(path)
    (path / "tokenizer.json").write_bytes(TOKENIZER.to_tokenizer_json())
    return path


def test_a_gemma3(gemma3, tmp_path, capsys):
    run(gemma3, tmp_path / "new", "--dry-run")
    assert "model.decoder.layers.2.mlp.up_proj.weight  float16  96x32" in capsys.readouterr().out
    run(gemma3, tmp_path / "new")
    found, source = stored(tmp_path / "new"), stored(gemma3)
    name = "layers.1.self_attn.q_proj.weight"
    for stack in ("encoder", "decoder"):
        assert found[f"model.{stack}.{name}"] == source[f"model.{name}"]
    lm = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path / "new"))
    assert lm.backbone.config.vision is None
    assert lm.preprocessor.tokenizer("the cat") == TOKENIZER("the cat")


def test_a_gguf_file_without_a_tokenizer(tmp_path, capsys):
    path = write_gguf(tmp_path / "model.gguf", tiny_gemma3())
    error = error_of(capsys, "convert", path, tmp_path / "new")
    assert "error: The metadata of a GGUF file must tell" in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.slow
def test_adapters(checkpoint, tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset(str(checkpoint), dtype="bfloat16")
    lm.enable_lora(rank=2, target=["query"])
    for variable in lm.backbone.trainable_variables:
        variable.assign(keras.random.normal(variable.shape, seed=1))
    lm.save_adapter(tmp_path / "adapter.safetensors")
    lm.save_peft_adapter(tmp_path / "peft")
    lm.export_to_transformers(tmp_path / "wanted")
    for name in ("adapter.safetensors", "peft"):
        run(checkpoint, tmp_path / f"merged-{name}", "--adapter", tmp_path / name)
        assert stored(tmp_path / f"merged-{name}") == stored(tmp_path / "wanted")
    assert stored(tmp_path / "wanted") != stored(checkpoint)
    options = ("--adapter", tmp_path / "peft", "--adapters", "peft")
    run(checkpoint, tmp_path / "beside", *options)
    assert stored(tmp_path / "beside") == stored(checkpoint)
    file = "adapter_config.json"
    assert json.loads((tmp_path / "beside" / "adapters" / "default" / file).read_text())["r"] == 2


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("t5gemma2_tiny", "taken", "The target must not be there yet. Received: .*taken"),
        ("t5gemma2_tyni", "new", "Received: preset='t5gemma2_tyni'"),
    ],
)
def test_errors(source, target, message, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    error = error_of(capsys, "convert", source, tmp_path / target)
    assert re.search(f"^error: .*{message}", error, re.M)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_size_that_is_none(capsys):
    error = error_of(capsys, "convert", "t5gemma2_tiny", "new", "--shard-size", "large")
    assert "Received: max_shard_size='large'" in error


def test_json_of_a_dry_run(checkpoint, tmp_path, capsys):
    found = parsed(capsys, "convert", checkpoint, tmp_path / "new", "--dry-run", "--json")
    assert len(found) == 137 and sum(tensor["bytes"] for tensor in found) == 4_101_952
    shapes = {tensor["name"]: tensor["shape"] for tensor in found}
    assert shapes["model.decoder.norm.weight"] == [128]


def test_the_options_are_those_of_the_targets():
    assert {name: target.about for name, target in TARGETS.items()} == CHOICES


# The command, which says when the first tensor is written, and then waits.
_SLOW = """
import signal, sys
from t5gemma2_cli import main
from keras_t5gemma2.files import safetensors_writer

def slow(tensor):
    yield from pieces(tensor)
    print("written", flush=True)
    signal.pause()

pieces, safetensors_writer._pieces = safetensors_writer._pieces, slow
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(number, tmp_path):
    command = [sys.executable, "-c", _SLOW, "convert", "t5gemma2_tiny", tmp_path / "new"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(line == "written\n" for line in process.stdout)
    (half_made,) = tmp_path.iterdir()
    assert half_made.name.startswith(".new.") and list(half_made.rglob("*.safetensors"))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted: nothing has been written to" in errors
    assert not list(tmp_path.iterdir())
