"""Conversion of a T5Gemma 2 from one format to another.

The source is what `T5Gemma2Seq2SeqLM.from_preset` takes, or a Gemma 3, both of whose stacks then
start from it. The target must not be there yet, and appears once it is whole: an interruption
leaves nothing.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.gemma3.keras_hub import BACKBONE
from keras_t5gemma2.checkpoints.keras_hub import names as keras_hub_names
from keras_t5gemma2.checkpoints.transformers.writer import DTYPES, new_tensors
from keras_t5gemma2.export.ctranslate2 import write_ctranslate2
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.files.safetensors_writer import NewTensor, parse_size, shards_of
from keras_t5gemma2.messages import say
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import shapes_only
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM

_GEMMA3 = ("gemma3", "gemma3_text")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of `convert`, as the options of `t5gemma2 convert` have it."""

    source: str
    target: pathlib.Path
    to: str = "transformers"
    dtype: str | None = None
    shard_size: int = 5 * 10**9
    text_only: bool = False
    decoder: str | None = None
    embeddings: str | None = None
    adapter: pathlib.Path | None = None
    adapters: str = "merge"
    dry_run: bool = False
    quiet: bool = False
    as_json: bool = False


def run(out, shard_size="5GB", **options):
    """Writes the target, or lists to `out` what would be written.

    Args:
        out: text file.
        shard_size: int or string, as `parse_size` takes it.
        **options: fields of `Request`.

    Raises:
        FileExistsError: the target is there already.
    """
    request = Request(shard_size=parse_size(shard_size), **options)
    if request.quiet:
        keras.config.disable_interactive_logging()
    (_list_tensors if request.dry_run else _convert)(request, out)


def _convert(arguments, out):
    start = time.monotonic()
    target = TARGETS[arguments.to]
    if arguments.target.exists():
        raise FileExistsError(
            f"The target must not be there yet. Received: {arguments.target}. Remove it, or name "
            "another"
        )
    try:
        _say(arguments, f"Reading {arguments.source}")
        lm = _load(arguments, target)
        _say(arguments, f"Writing {arguments.target} for {arguments.to}")
        with atomic_directory(arguments.target) as directory:
            target.write(lm, directory, arguments)
    except KeyboardInterrupt as error:
        error.add_note(f"Interrupted: nothing has been written to {arguments.target}")
        raise
    sizes = [path.stat().st_size for path in arguments.target.rglob("*") if path.is_file()]
    seconds = time.monotonic() - start
    if arguments.as_json:
        found = {"path": str(arguments.target), "format": arguments.to}
        print(json.dumps({**found, "files": len(sizes), "bytes": sum(sizes)}), file=out)
    elif not arguments.quiet:
        print(f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB, {seconds:.1f} s", file=out)


def _list_tensors(arguments, out):
    """Prints what would be written."""
    target = TARGETS[arguments.to]
    files = target.files(_backbone_to_list(arguments, target), arguments)
    tensors = [(file, tensor) for file, part in files.items() for tensor in part]
    for file, tensor in tensors:
        if arguments.as_json:
            fields = {"file": file, "name": tensor.name, "dtype": tensor.dtype.name}
            fields |= {"shape": list(tensor.shape), "bytes": tensor.num_bytes}
            print(json.dumps(fields), file=out)
        else:
            shape = "x".join(map(str, tensor.shape))
            line = f"{file}  {tensor.name}  {tensor.dtype.name}  {shape}  {tensor.num_bytes:,} B"
            print(line, file=out)
    if not arguments.as_json:
        size = sum(tensor.num_bytes for _, tensor in tensors)
        print(f"{len(tensors)} tensors in {len(files)} files, {size:,} B", file=out)


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
        cls = formats.class_for(T5Gemma2Seq2SeqLM, arguments.source)
        lm = cls.from_preset(arguments.source, **options)
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
    cls = formats.class_for(T5Gemma2Backbone, arguments.source)
    return shapes_only(
        lambda: cls.from_preset(
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
        config = backbone.config
        is_second = config.generation == 2
        if is_second and config.vision is None and row.name == keras_hub_names.ENDS_OF_IMAGE[0]:
            continue  # it has none without a tower
        variable = variables[row.path]
        shape = row.layout.from_variable_shape(tuple(variable.shape))
        for name in keras_hub_names.copies(row.name, config.generation):
            found.append(NewTensor(name, shape, np.dtype(variable.dtype), None))
    return _keras_file(found, arguments)


def _write_ctranslate2(lm, directory, arguments):
    write_ctranslate2(lm, directory, arguments.target.name, arguments.dtype)


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
    "ctranslate2": Target(
        "a directory that CTranslate2 loads, of text alone",
        _write_ctranslate2,
        _transformers_files,
        converts_dtype=True,
    ),
    "keras": Target("a preset directory of this package", _write_keras, _keras_files),
    "keras-hub": Target(
        "a preset directory of keras-hub's own T5Gemma 2", _write_keras_hub, _keras_hub_files
    ),
}


def _say(arguments, text):
    if not arguments.quiet:
        say(text)
