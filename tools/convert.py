"""Converts a T5Gemma 2 from one format to another.

    python tools/convert.py hf://google/t5gemma-2-270m-270m t5gemma2 --to keras --dtype bfloat16
    python tools/convert.py my_preset my_checkpoint --to transformers --shard-size 2GB
    python tools/convert.py gemma-3-270m.gguf adapted --to transformers --dry-run

The source is what `T5Gemma2Seq2SeqLM.from_preset` takes, or a Gemma 3, both of whose stacks then
start from it. The target must not be there yet, and appears once it is whole: an interruption
leaves nothing.
"""

import argparse
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.gemma3.keras_hub import BACKBONE
from keras_t5gemma2.checkpoints.keras_hub import names as keras_hub_names
from keras_t5gemma2.checkpoints.transformers.writer import DTYPES, new_tensors
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.files.safetensors_writer import NewTensor, parse_size, shards_of
from keras_t5gemma2.model.loading import shapes_only

_GEMMA3 = ("gemma3", "gemma3_text")


def main(arguments=None):
    arguments = _parse(arguments)
    if arguments.quiet:
        keras.config.disable_interactive_logging()
    try:
        (_list_tensors if arguments.dry_run else _convert)(arguments)
    except KeyboardInterrupt:
        print(f"Interrupted: nothing has been written to {arguments.target}", file=sys.stderr)
        return 130
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _convert(arguments):
    start = time.monotonic()
    target = TARGETS[arguments.to]
    if arguments.target.exists():
        raise FileExistsError(
            f"The target must not be there yet. Received: {arguments.target}. Remove it, or name "
            "another"
        )
    _say(arguments, f"Reading {arguments.source}")
    lm = _load(arguments, target)
    _say(arguments, f"Writing {arguments.target} for {arguments.to}")
    with atomic_directory(arguments.target) as directory:
        target.write(lm, directory, arguments)
    sizes = [path.stat().st_size for path in arguments.target.rglob("*") if path.is_file()]
    seconds = time.monotonic() - start
    _say(arguments, f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB, {seconds:.1f} s")


def _list_tensors(arguments):
    """Prints what would be written."""
    target = TARGETS[arguments.to]
    files = target.files(_backbone_to_list(arguments, target), arguments)
    for file, tensors in files.items():
        for tensor in tensors:
            shape = "x".join(map(str, tensor.shape))
            print(f"{file}  {tensor.name}  {tensor.dtype.name}  {shape}  {tensor.num_bytes:,} B")
    tensors = [tensor for part in files.values() for tensor in part]
    size = sum(tensor.num_bytes for tensor in tensors)
    print(f"{len(tensors)} tensors in {len(files)} files, {size:,} B")


# Sources ----------------------------------------------------------------------------------------


def _load(arguments, target):
    """The task, in the dtype that it is stored in where the target can still convert it."""
    path = _gemma3(arguments.source)
    dtype = None if target.converts_dtype else arguments.dtype
    dtype = dtype or _stored_dtype(path or arguments.source)
    options = {"text_only": arguments.text_only} | ({} if dtype is None else {"dtype": dtype})
    if path is not None:
        lm = T5Gemma2Seq2SeqLM.from_gemma3(path, arguments.decoder, **options)
    else:
        options["embeddings"] = arguments.embeddings
        lm = T5Gemma2Seq2SeqLM.from_preset(arguments.source, **options)
    if arguments.adapter is not None:
        load = lm.load_peft_adapter if arguments.adapter.is_dir() else lm.load_adapter
        load(arguments.adapter)
    return lm


def _backbone_to_list(arguments, target):
    """The backbone, whose weights are read only where there is no other way to its sizes."""
    if _gemma3(arguments.source) is not None:
        return _load(arguments, target).backbone
    dtype = arguments.dtype or _stored_dtype(arguments.source, load_weights=False)
    options = {} if dtype is None else {"dtype": dtype}
    return shapes_only(
        lambda: T5Gemma2Backbone.from_preset(
            arguments.source, load_weights=False, text_only=arguments.text_only, **options
        )
    )


def _gemma3(source):
    """The path of a source that is a Gemma 3, or `None`."""
    if source.endswith(".gguf"):
        return source
    path = pathlib.Path(source).expanduser()
    directory = path if path.is_dir() else formats.locate(source, load_weights=False)[0]
    if directory is None:
        return None
    values = read_json(directory, "config.json")
    if values.get("model_type") not in _GEMMA3 and values.get("registered_name") != BACKBONE:
        return None
    return str(path if path.is_dir() else formats.locate(source)[0])


def _stored_dtype(source, load_weights=True):
    """The dtype that a source's weights have; `None` for Keras's own, where it does not say."""
    if source.endswith(".gguf"):
        return None
    path = pathlib.Path(source).expanduser()
    directory = path if path.is_dir() else formats.locate(source, load_weights)[0]
    if directory is None:
        return None
    values = read_json(directory, "config.json")
    if "model_type" not in values:
        # The policy of a preset.
        policy = values.get("config", {}).get("dtype")
        return policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
    if not load_weights and not any(directory.glob("*.safetensors")):
        found = {values.get("dtype", values.get("torch_dtype"))}
    else:
        found = {tensor.dtype.name for tensor in read_safetensors(directory).values()}
    return found.pop() if len(found) == 1 and found <= set(DTYPES) else "float32"


# Targets ----------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A format that is written.

    Args:
        about: string, for the help.
        write: function of the task, a directory that is there and empty, and the arguments.
        files: function of the backbone, whose variables may be without values, and the
            arguments: a dict of lists of `NewTensor` by file name.
        converts_dtype: bool. Whether it writes another dtype than the task has.
    """

    about: str
    write: Callable
    files: Callable
    converts_dtype: bool = False


def _write_transformers(lm, directory, arguments):
    lm.export_to_transformers(
        directory, arguments.dtype, arguments.shard_size, adapters=arguments.adapters
    )


def _transformers_files(backbone, arguments):
    return shards_of(new_tensors(backbone, arguments.dtype), arguments.shard_size)


def _write_keras_hub(lm, directory, arguments):
    if lm.active_adapter is not None:
        lm.merge_adapter()
    lm.save_to_keras_hub_preset(directory, max_shard_size=arguments.shard_size / (1 << 30))


def _keras_hub_files(backbone, arguments):
    variables = {variable.path: variable for variable in backbone.weights}
    found = []
    for row in keras_hub_names.rows(backbone.config):
        if backbone.config.vision is None and row.name == keras_hub_names.ENDS_OF_IMAGE[0]:
            continue  # it has none without a tower
        variable = variables[row.path]
        shape = row.layout.from_variable_shape(tuple(variable.shape))
        for name in keras_hub_names.copies(row.name):
            found.append(NewTensor(name, shape, np.dtype(variable.dtype), None))
    return _keras_file(found, arguments)


def _write_keras(lm, directory, arguments):
    lm.save_to_preset(directory, max_shard_size=arguments.shard_size / 1e9)


def _keras_files(backbone, arguments):
    tensors = [
        NewTensor(variable.path, tuple(variable.shape), np.dtype(variable.dtype), None)
        for variable in backbone.weights
    ]
    return _keras_file(tensors, arguments)


def _keras_file(tensors, arguments):
    is_whole = sum(tensor.num_bytes for tensor in tensors) <= arguments.shard_size
    return {"model.weights.h5" if is_whole else "model_*.weights.h5": tensors}


TARGETS = {
    "transformers": Target(
        "a directory that the transformers library loads",
        _write_transformers,
        _transformers_files,
        converts_dtype=True,
    ),
    "keras": Target("a preset directory of this package", _write_keras, _keras_files),
    "keras-hub": Target(
        "a preset directory of keras-hub's own T5Gemma 2", _write_keras_hub, _keras_hub_files
    ),
}


# The command line -------------------------------------------------------------------------------


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="preset, hf:// handle, directory, or GGUF file of a Gemma 3")
    parser.add_argument("target", type=pathlib.Path, help="directory to write")
    formats = "; ".join(f"{name}: {target.about}" for name, target in TARGETS.items())
    parser.add_argument("--to", choices=TARGETS, default="transformers", help=formats)
    parser.add_argument("--dtype", choices=DTYPES, help="by default that of the source")
    parser.add_argument("--shard-size", type=_size, default="5GB", help="of a file, as in 2GB")
    parser.add_argument("--text-only", action="store_true", help="leave the vision tower out")
    parser.add_argument("--decoder", help="Gemma 3 for the decoder, where it is another one")
    parser.add_argument(
        "--embeddings",
        choices=("encoder", "decoder", "mean"),
        help="which of the two tables of a preset of keras-hub, where they differ",
    )
    parser.add_argument("--adapter", type=pathlib.Path, help="file, or directory of peft")
    parser.add_argument(
        "--adapters",
        choices=("merge", "peft"),
        default="merge",
        help="for transformers: into the weights, or beside them in the format of peft",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the tensors, write nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


def _size(text):
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _say(arguments, text):
    if not arguments.quiet:
        print(text, flush=True)


def _stop(number, frame):
    """Ends by way of what `with` blocks clean up, as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, name), _stop)
    sys.exit(main())
