"""An embedder as a directory that the sentence-transformers library loads."""

import json
import pathlib

import numpy as np

from keras_t5gemma2.checkpoints.cards import Card, write_card
from keras_t5gemma2.checkpoints.transformers.writer import write_transformers
from keras_t5gemma2.files.atomic import atomic_directory
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.files.safetensors_writer import NewTensor, write_safetensors
from keras_t5gemma2.messages import shown

_MODULES = "modules.json"
_SETTINGS, _TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
_REPLACED = (_MODULES, _SETTINGS, _TRANSFORMER, "[1-3]_*/*")
# What that library calls each kind of pooling.
_MODES = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}
_ALL_MODES = (
    *("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"),
    *("weightedmean_tokens", "lasttoken"),
)
_ONE_FILE = 1 << 40


def write_sentence_transformers(path, embedder, dtype, max_shard_size, metrics=None):
    """Writes the encoder in the reference's format, and beside it what makes a vector of a row.

    Args:
        path: path of the directory.
        embedder: `T5Gemma2TextEmbedder`.
        dtype: as `write_transformers` has it.
        max_shard_size: as `write_transformers` has it.
        metrics: as `write_transformers` has it.

    Raises:
        ValueError: the embedder has no preprocessor, or a pooling that the library has not; or
            as `write_transformers`.
    """
    if embedder.pooling not in _MODES:
        raise ValueError(
            f"`pooling` must be one of {', '.join(map(repr, _MODES))} for sentence-transformers, "
            f"which has no learned query. Received: pooling={shown(embedder.pooling)}"
        )
    if embedder.preprocessor is None:
        raise ValueError(
            "An embedder must have a preprocessor to be exported: the library reads texts. "
            "Received: preprocessor=None"
        )
    path = local_path(path).resolve()
    write_transformers(
        *(path, embedder.backbone, embedder.preprocessor, dtype, max_shard_size),
        metrics=metrics,
        encoder_only=True,
    )
    modules = _modules(embedder)
    with atomic_directory(path, replaces=_REPLACED, written_last=_MODULES) as directory:
        for number, (name, values) in enumerate(modules):
            if number > 0:
                (directory / f"{number}_{name}").mkdir()
                _write(directory / f"{number}_{name}" / "config.json", values)
            if name == "Dense":
                _write_cut(directory / f"{number}_{name}", values)
        for file, values in _files(embedder, [name for name, _ in modules]).items():
            _write(directory / file, values)
        write_card(directory, _card(path.name, embedder, metrics or {}), path)


def read_settings(path):
    """Arguments of a `T5Gemma2TextEmbedder` that a directory of that library says; `{}` of none.

    Args:
        path: path of the directory.

    Raises:
        ValueError: it has a module, or a setting of one, that the embedder has not.
    """
    path = pathlib.Path(path)
    if not (path / _MODULES).is_file():
        return {}
    modules = _read_modules(path)
    found = {"normalize": False}
    for kind, place in modules[1:]:
        if kind == "Pooling":
            found["pooling"] = _read_pooling(place)
        elif kind == "Dense":
            found["dimensions"] = _read_cut(place)
        elif kind == "Normalize":
            found["normalize"] = True
        else:
            raise _error(path, f"a module {shown(kind)}")
    if "pooling" not in found:
        raise _error(path, f"the modules {shown([kind for kind, _ in modules])}")
    has_settings = (path / _SETTINGS).is_file()
    prompts = read_json(path, _SETTINGS).get("prompts") if has_settings else None
    given = {name: text for name, text in (prompts or {}).items() if text}
    return {**found, "prompts": given} if given else found


def _read_modules(path):
    try:
        modules = json.loads((path / _MODULES).read_text(encoding="utf-8"))
        found = [(row["type"].rpartition(".")[2], path / row["path"]) for row in modules]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _error(path, f"{_MODULES} without types and paths") from error
    if not found or found[0][0] != "Transformer":
        raise _error(path, f"the modules {shown([kind for kind, _ in found])}")
    for _, place in found[1:]:
        if path.resolve() not in place.resolve().parents and place.resolve() != path.resolve():
            raise _error(path, f"a module at {shown(str(place))}")
    return found


def _read_pooling(place):
    values = read_json(place, "config.json")
    said = [name for name in _ALL_MODES if values.get(f"pooling_mode_{name}")]
    modes = values.get("pooling_mode", said)  # as newer releases write it
    modes = [modes] if isinstance(modes, str) else list(modes)
    newer = {"mean": "mean", "cls": "first", "lasttoken": "last"}
    older = {mode: kind for kind, mode in _MODES.items()}
    found = [{**older, **newer}.get(mode) for mode in modes]
    if len(found) != 1 or found[0] is None or values.get("include_prompt") is False:
        raise _error(place, f"a pooling of {shown(values)}")
    return found[0]


def _read_cut(place):
    values = read_json(place, "config.json")
    tensors = read_safetensors(place)
    matrix = tensors["linear.weight"].read() if list(tensors) == ["linear.weight"] else None
    is_linear = str(values.get("activation_function")).endswith(".Identity")
    if not is_linear or matrix is None or not np.array_equal(matrix, np.eye(*matrix.shape)):
        raise _error(place, "a Dense module that does more than cut vectors")
    return len(matrix)


def _error(path, what):
    return ValueError(
        "A directory of sentence-transformers must hold a Transformer, a Pooling (mean, first or "
        "last token, the prompt included), perhaps a Dense that cuts vectors, and Normalize. "
        f"Received: {path}, with {what}"
    )


def _modules(embedder):
    """Pairs of the name of a module and its config, in their order."""
    width = embedder.backbone.config.hidden_dim
    mode = _MODES[embedder.pooling]
    pooling = {f"pooling_mode_{name}": name == mode for name in _ALL_MODES}
    found = [("Transformer", None)]
    found += [("Pooling", {"word_embedding_dimension": width, **pooling, "include_prompt": True})]
    if embedder.width < width:
        sizes = {"in_features": width, "out_features": embedder.width, "bias": False}
        activation = {"activation_function": "torch.nn.modules.linear.Identity"}
        found += [("Dense", {**sizes, **activation})]
    return [*found, *([("Normalize", {})] if embedder.normalize else [])]


def _write_cut(directory, sizes):
    """The matrix that keeps the first numbers of a vector: the library has no other way to."""

    def read():
        return np.eye(sizes["out_features"], sizes["in_features"], dtype="float32")

    shape = (sizes["out_features"], sizes["in_features"])
    tensor = NewTensor("linear.weight", shape, np.dtype("float32"), read)
    write_safetensors(directory, [tensor], _ONE_FILE)


def _files(embedder, names):
    kinds = [f"sentence_transformers.models.{name}" for name in names]
    paths = ["", *(f"{number}_{name}" for number, name in enumerate(names) if number > 0)]
    return {
        _SETTINGS: {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": "", **embedder.prompts},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        _TRANSFORMER: {
            "max_seq_length": embedder.preprocessor.encoder_sequence_length,
            "do_lower_case": False,
        },
        _MODULES: [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(zip(paths, kinds, strict=True))
        ],
    }


def _card(name, embedder, metrics):
    backbone = embedder.backbone
    return Card(
        title=name,
        what=(
            f"Vectors of {embedder.width} numbers for texts, from the encoder of a T5Gemma 2 "
            "model, in the format of the sentence-transformers library, written by "
            "keras_t5gemma2."
        ),
        usage=(
            "from sentence_transformers import SentenceTransformer\n"
            f'model = SentenceTransformer("{name}")\n'
            'vectors = model.encode(["a text", "another"])\n'
            "# In Keras:\n"
            f'# embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("{name}")'
        ),
        library="sentence-transformers",
        source=backbone.source,
        pipeline="sentence-similarity",
        metrics=metrics,
    )


def _write(path, values):
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
