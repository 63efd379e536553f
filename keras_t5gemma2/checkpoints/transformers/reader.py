"""A checkpoint in the reference's format."""

import functools
import inspect

import numpy as np

from keras_t5gemma2.checkpoints.checkpoint import Checkpoint, SavedLayer
from keras_t5gemma2.checkpoints.heads import REFERENCE_ROWS, stored
from keras_t5gemma2.checkpoints.transformers import t5gemma1
from keras_t5gemma2.checkpoints.transformers.files import image_options, tokenizer_file
from keras_t5gemma2.checkpoints.transformers.generations import reader_of
from keras_t5gemma2.checkpoints.transformers.names import (
    canonical_name,
    is_copy,
    is_decoder_name,
    is_vision_name,
    rows,
)
from keras_t5gemma2.checkpoints.transformers.sentence_transformers import read_settings
from keras_t5gemma2.files.chat_template import TEMPLATE_FILE, read_template
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.files.tensors import StoredTensor, list_names

_FLOATS = ("float64", "float32", "float16", "bfloat16")
_BYTES_COMPARED_AT_ONCE = 1 << 23


class TransformersCheckpoint(Checkpoint):
    """A directory with `config.json` and safetensors, in one file or in shards.

    The tensors may have any of the names that the reference has given them.

    Example:

    >>> import json, pathlib, tempfile
    >>> directory = pathlib.Path(tempfile.mkdtemp())
    >>> part = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2}
    >>> config = {"model_type": "t5gemma2", "encoder": {"text_config": part}, "decoder": part}
    >>> _ = (directory / "config.json").write_text(json.dumps(config))
    >>> len(TransformersCheckpoint(directory, text_only=True).config.decoder.layers)
    2
    """

    small_files = ("*.json", "tokenizer.model", TEMPLATE_FILE)
    weight_files = ("*.safetensors",)
    tokenizer_files = "tokenizer.json or tokenizer.model"

    @functools.cached_property
    def config(self):
        read, values = self._reader
        return self.parts_of(read.config_from_transformers(values, self.text_only))

    @property
    def generation(self):
        return 1 if self._reader[0] is t5gemma1 else 2

    @property
    def _reader(self):
        values = read_json(self.path, "config.json")
        return reader_of(values), values

    def tensors(self):
        return stored_tensors(self.path, self.config)

    def task(self, cls):
        """With the sizes of a head where the files have the one of this task.

        Of an embedder, with what the files of the sentence-transformers library say.
        """
        if "prompts" in inspect.signature(cls.__init__).parameters:
            return cls, read_settings(self.path)
        read, values = self._reader
        head = read.reference_head(values)
        if head is None or head.architecture != getattr(cls, "reference_class", None):
            return cls, {}
        settings = ("num_classes", "dropout", "start_token_id")
        return cls, {name: getattr(head, name) for name in settings}

    def head_tensors(self):
        found = read_safetensors(self.path)
        names = {name: (path, layout) for path, (name, layout) in REFERENCE_ROWS.items()}
        return {
            names[name][0]: stored(found[name], names[name][1]) for name in names if name in found
        }

    @property
    def has_tokenizer(self):
        return tokenizer_file(self.path) is not None

    def tokenizer(self):
        path = tokenizer_file(self.path)
        if path is None:
            raise FileNotFoundError(
                f"A tokenizer needs {self.tokenizer_files}. Received: {self.path}, which has "
                "neither."
            )
        return SavedLayer({"proto": str(path)})

    def image_converter(self):
        if self.config.vision is None:
            raise ValueError(
                "An image converter needs the directory of a model that sees images. Received: "
                f"{self.path}, whose model takes text only."
            )
        return SavedLayer(image_options(self.path, self.config.vision)[0])

    def preprocessor(self):
        """Its lengths are what the stacks are made for; its chat template is the checkpoint's."""
        read, values = self._reader
        encoder, decoder = read.context_lengths(values)
        found = {"encoder_sequence_length": encoder, "decoder_sequence_length": decoder}
        if (vision := self.config.vision) is not None:
            found["tokens_per_image"] = image_options(self.path, vision)[1]
        found["chat_template"] = read_template(self.path)
        return SavedLayer(found)


def stored_tensors(directory, config):
    """The tensors of a checkpoint directory for a model: `StoredTensor` by variable path.

    Args:
        directory: path of the directory.
        config: `BackboneConfig`. The tensors of a vision part or decoder that it has not are
            passed over.

    Raises:
        FileNotFoundError: the safetensors are not there.
        ValueError: a tensor is missing, unexpected, or quantized; copies of a tied tensor differ;
            a file is cut off.
    """
    of_head = [name for name, _ in REFERENCE_ROWS.values()]
    found = read_safetensors(directory)
    found = {name: tensor for name, tensor in found.items() if name not in of_head}
    found = _by_canonical_name(found, config.decoder_table)
    if config.vision is None:
        found = {name: same for name, same in found.items() if not is_vision_name(name)}
    if config.decoder is None:
        found = {name: same[:1] for name, same in found.items() if not is_decoder_name(name)}
    wanted = rows(config)
    _check_names(directory, {row.name for row in wanted}, found)
    for same in found.values():
        _check_equal(same)
    return {row.path: _stored_tensor(found[row.name][0], row.layout) for row in wanted}


def _by_canonical_name(tensors, decoder_table):
    """Lists of tensors that are one tensor of the model, copies last, by its canonical name."""
    found = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: is_copy(item[0], decoder_table)):
        found.setdefault(canonical_name(name, decoder_table), []).append(tensor)
    return found


def _check_names(directory, wanted, found):
    missing = sorted(wanted - set(found))
    unexpected = sorted(same[0].name for name, same in found.items() if name not in wanted)
    problems = [
        f"{kind} ({len(names)}): {list_names(names)}"
        for kind, names in (("Missing", missing), ("Unexpected", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"The tensors in {directory} must be those of the model in its config.json. "
            + ". ".join(problems)
        )


def _check_equal(same):
    """Copies of one tensor under several names must agree in every bit."""
    first, *others = same
    for other in others:
        is_equal = (first.dtype, first.shape) == (other.dtype, other.shape)
        if not (is_equal and _have_equal_bytes(first, other)):
            raise ValueError(
                f"The tensors {first.name} and {other.name} are one and the same in the model, "
                f"and must be equal in {first.path.parent}. Where they have been trained apart, "
                "choose one and remove the other."
            )


def _have_equal_bytes(first, other):
    mine, theirs = (tensor.read().reshape(-1).view("uint8") for tensor in (first, other))
    for start in range(0, mine.size, _BYTES_COMPARED_AT_ONCE):
        piece = slice(start, start + _BYTES_COMPARED_AT_ONCE)
        if not np.array_equal(mine[piece], theirs[piece]):
            return False
        first.release()
        other.release()
    return True


def _stored_tensor(tensor, layout):
    if str(tensor.dtype) not in _FLOATS:
        raise ValueError(
            f"Weights must be of one of the types {', '.join(_FLOATS)}; a quantized checkpoint "
            f"cannot be read. Received: {tensor.name} of type {tensor.dtype} in {tensor.path}"
        )
    return StoredTensor(tensor.name, tensor.shape, tensor.read, tensor.release, layout)
