"""Gemma 3 models, from which the paper starts T5Gemma 2, as checkpoints of one.

A T5Gemma 2 layer is a Gemma 3 layer: the encoder takes its weights and looks both ways, and the
decoder takes them too, as those of its merged attention. With every token of the encoder masked,
the decoder is that Gemma 3 model.
"""

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import numpy as np

from keras_t5gemma2.checkpoints.checkpoint import Checkpoint, SavedLayer
from keras_t5gemma2.checkpoints.gemma3.directory import read_gemma3_directory
from keras_t5gemma2.checkpoints.gemma3.gguf import read_gemma3_gguf, sentencepiece_in_gguf
from keras_t5gemma2.checkpoints.gemma3.keras_hub import (
    is_keras_preset,
    read_gemma3_preset,
    sentencepiece_in_preset,
)
from keras_t5gemma2.checkpoints.sources import source_of_gemma3
from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers, context_lengths
from keras_t5gemma2.checkpoints.transformers.files import image_options, tokenizer_file
from keras_t5gemma2.checkpoints.transformers.names import rows
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.files.tensors import StoredTensor, list_names
from keras_t5gemma2.messages import shown, shown_path
from keras_t5gemma2.typing import PathLike
from keras_t5gemma2.vocabulary.vocabulary import t5gemma2_vocabulary

_TABLE, _HEAD = "embed_tokens.weight", "lm_head.weight"
# Parts of T5Gemma 2's names that differ in Gemma 3.
_OTHER_NAMES = {
    "pre_self_attn_layernorm": "input_layernorm",
    "post_self_attn_layernorm": "post_attention_layernorm",
}
_VISION = ("vision_tower.", "multi_modal_projector.")
# What T5Gemma 2 has too, and a Gemma 3 can have otherwise.
_NEEDED = {
    "use_bidirectional_attention": False,
    "attn_logit_softcapping": None,
    "tie_word_embeddings": True,
}


@dataclasses.dataclass(frozen=True)
class Gemma3Checkpoint(Checkpoint):
    """A T5Gemma 2 whose encoder and decoder start from Gemma 3 models.

    RoPE, windows and soft caps are those of the models. A vision tower and its projector come
    from the encoder's.

    Args:
        path: of the encoder's model: path of a GGUF file; of a directory with `config.json` and
            safetensors; or of a preset directory of keras-hub's Gemma 3.
        decoder: such a path, of the same width and vocabulary, whose vocabulary is the
            tokenizer's. Its embedding table, which gives the logits, is the one that both stacks
            have. By default the model of the encoder.
        image_token_id: int. The id at whose places images stand; by default the encoder's.

    Raises:
        FileNotFoundError: there is no such file or directory, or a part of it is missing.
        ImportError: a path is that of a GGUF file and the `gguf` package is not installed.
        ValueError: it is no Gemma 3, or one whose attention T5Gemma 2 does not have; the two do
            not fit together; the logits have a matrix of their own; a tensor is missing,
            unexpected or of a wrong shape; a file is cut off.
    """

    decoder: PathLike | None = None
    image_token_id: int | None = None

    end_of_image_is_in_table = True

    @property
    def origin(self):
        return self.path

    @property
    def source(self):
        return source_of_gemma3(self.path)

    @functools.cached_property
    def _sources(self):
        """The `_Source`s of encoder and decoder."""
        first = _read(self.path, self.text_only)
        return first, first if self.decoder is None else _read(self.decoder, text_only=True)

    @functools.cached_property
    def config(self):
        config = _joined(*self._sources)
        if self.image_token_id is None:
            return config
        return dataclasses.replace(config, image_token_id=self.image_token_id)

    def tensors(self):
        for source in {id(source): source for source in self._sources}.values():
            _check_names(source)
            _check_head(source)
        return _tensors_by_path(self.config, *self._sources)

    def tokenizer(self):
        path = self.path if self.decoder is None else self.decoder
        return SavedLayer({"proto": gemma3_vocabulary(path)})

    def image_converter(self):
        return SavedLayer(image_options(self._sources[0].path, self.config.vision)[0])

    def preprocessor(self):
        first, second = self._sources
        found = {
            "encoder_sequence_length": first.context_length,
            "decoder_sequence_length": second.context_length,
        }
        if (vision := first.config.vision) is not None:
            found["tokens_per_image"] = vision.tokens_per_image
        return SavedLayer(found)


def gemma3_vocabulary(path):
    """The vocabulary of a Gemma 3 model, with the image token that T5Gemma 2 has, as bytes.

    Args:
        path: path of a GGUF file; of a directory with `tokenizer.json` or `tokenizer.model`; or
            of a preset directory of keras-hub with a tokenizer.

    Raises:
        FileNotFoundError: there is no such file or directory, or no tokenizer in it.
        ImportError: `path` is a GGUF file and the `gguf` package is not installed.
        ValueError: it holds no tokenizer of Gemma 3's kind.
    """
    path = _existing(path)
    if not path.is_dir():
        proto = sentencepiece_in_gguf(path)
    else:
        find = sentencepiece_in_preset if is_keras_preset(path) else tokenizer_file
        proto = find(path)
    if proto is None:
        raise FileNotFoundError(
            "The directory of a Gemma 3 model must hold tokenizer.json or tokenizer.model, or, as "
            f"a preset, assets/tokenizer/vocabulary.spm. Received: {path}. Where there is none, "
            "give `preprocessor=None` to work on token ids"
        )
    return t5gemma2_vocabulary(proto)


class _Source(NamedTuple):
    """A Gemma 3 model that has been opened: everything but the values of its tensors."""

    path: pathlib.Path
    config: BackboneConfig  # both stacks are this model
    tensors: dict  # by Gemma 3's names without a prefix
    context_length: int  # tokens


def _read(path, text_only):
    path = _existing(path)
    if not path.is_dir():
        text, tensors = read_gemma3_gguf(path)
        values = {"text_config": text, "vision_config": None}
    else:
        values, tensors = (
            read_gemma3_preset(path) if is_keras_preset(path) else read_gemma3_directory(path)
        )
    if text_only or values["vision_config"] is None:
        values = {**values, "vision_config": None}
        tensors = {name: x for name, x in tensors.items() if not name.startswith(_VISION)}
    whole = _whole(path, values)
    config = config_from_transformers(whole, text_only=values["vision_config"] is None)
    return _Source(path, config, tensors, context_lengths(whole)[0])


def _existing(path):
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            "A Gemma 3 model must be the path of a GGUF file, of a directory with config.json and "
            "safetensors, or of a preset directory of keras-hub. "
            f"Received: {shown_path(path)}, which does not exist. One of Hugging Face's is had by "
            "`huggingface_hub.snapshot_download(repository)`, which gives a path"
        )
    return path


def _whole(path, values):
    """The `config.json` of a model whose stacks are both the Gemma 3 of another."""
    text, vision = values["text_config"], values["vision_config"]
    for key, value in _NEEDED.items():
        if text.get(key, value) != value:
            raise ValueError(
                f"The `{key}` of a Gemma 3 model must be {value}, as T5Gemma 2 has it. "
                f"Received: {key}={shown(text[key])} in {path}"
            )
    kept = ("mm_tokens_per_image", "eoi_token_index", "eoi_token_id")
    encoder = {key: values[key] for key in kept if key in values}
    ids = ("image_token_index", "image_token_id")
    return {
        "model_type": "t5gemma2",
        "encoder": {**encoder, "text_config": text, "vision_config": vision},
        "decoder": text,
        "attention_dropout": text.get("attention_dropout", 0.0),
        **{key: values[key] for key in ids if key in values},
    }


def _joined(encoder, decoder):
    """The `BackboneConfig` of the encoder of one model and the decoder of another."""
    pairs = {
        name: (getattr(encoder.config, name), getattr(decoder.config, name))
        for name in ("hidden_dim", "vocabulary_size")
    }
    if any(one != other for one, other in pairs.values()):
        sizes = "; ".join(
            f"{stack}: {', '.join(f'{name}={pair[i]}' for name, pair in pairs.items())} ({path})"
            for i, (stack, path) in enumerate(
                (("encoder", encoder.path), ("decoder", decoder.path))
            )
        )
        raise ValueError(
            "The Gemma 3 models of encoder and decoder must have the same width and vocabulary, "
            "since the decoder's layers read the encoder's output and both have one embedding "
            "table; layers, heads, MLPs, windows and RoPE may differ. "
            f"Received: {sizes}"
        )
    return dataclasses.replace(
        encoder.config,
        decoder=decoder.config.decoder,
        final_logit_soft_cap=decoder.config.final_logit_soft_cap,
    )


def _check_names(source):
    """Each model must be whole, whichever of its parts are taken."""
    wanted = {_gemma3_name(row.name) for row in rows(source.config) if not _is_end_of_image(row)}
    missing = sorted(wanted - set(source.tensors))
    unexpected = set(source.tensors) - wanted - {_HEAD}
    unexpected = sorted(source.tensors[name].name for name in unexpected)
    problems = [
        f"{kind} ({len(names)}): {list_names(names)}"
        for kind, names in (("Missing", missing), ("Unexpected", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"The tensors in {source.path} must be those of a Gemma 3 model of its sizes. "
            + ". ".join(problems)
        )


def _check_head(source):
    """A matrix for the logits may be there, as a copy of the embedding table."""
    head, table = source.tensors.get(_HEAD), source.tensors[_TABLE]
    if head is not None and not _is_same(head.read(), table.read()):
        raise ValueError(
            "The embedding table gives T5Gemma 2's logits too, so that a matrix of their own must "
            f"be a copy of it. Received: {head.name}, which differs from {table.name}, in "
            f"{source.path}"
        )


def _is_same(head, table):
    return head.shape == table.shape and np.array_equal(head, table, equal_nan=True)


def _tensors_by_path(config, encoder, decoder):
    """`StoredTensor` by variable path."""
    found = {}
    for row in rows(config):
        if _is_end_of_image(row):
            found[row.path] = _not_yet((config.hidden_dim,))
        else:
            is_decoders = row.path.startswith(("decoder/", "embedder/"))
            tensor = (decoder if is_decoders else encoder).tensors[_gemma3_name(row.name)]
            found[row.path] = _with_layout(tensor, row.layout)
    return found


def _is_end_of_image(row):
    return row.path == "embedder/end_of_image"


def _not_yet(shape):
    """A vector that Gemma 3 does not have, set once there is a table to take it from."""
    return StoredTensor("end of image", shape, lambda: np.zeros(shape, "float32"))


def _gemma3_name(name):
    """Gemma 3's name for one of T5Gemma 2's: without the stack."""
    _, _, name = name.removeprefix("model.").partition(".")
    for ours, theirs in _OTHER_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _with_layout(tensor, layout):
    return StoredTensor(tensor.name, tensor.shape, tensor.read, tensor.release, layout)
