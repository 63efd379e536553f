"""A directory of Gemma 3 in the reference's format: its config and its tensors."""

from keras_t5gemma2.files.json_object import read_json
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.messages import shown

_FLOATS = ("float64", "float32", "float16", "bfloat16")
# Of a text model, and of the text part of a model that sees images, in older and newer files.
_PREFIXES = ("language_model.model.", "model.language_model.", "language_model.", "model.")
# What older files call the vision tower's own model.
_TOWER = "vision_tower."
_OLDER_TOWER = "vision_tower.vision_model."


def read_gemma3_directory(directory):
    """The model in a directory of the reference.

    Args:
        directory: path of a directory with `config.json` and safetensors, of a text model or of
            one that sees images.

    Returns:
        A dict of the values that the `config.json` of a model that sees images has, where
        `vision_config` is `None` for a text model; and a dict of tensors by Gemma 3's names
        without a prefix, such as "layers.0.mlp.up_proj.weight" or
        "vision_tower.embeddings.patch_embedding.bias".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no Gemma 3, or a file is not what it should be.
    """
    values = read_json(directory, "config.json")
    kind = values.get("model_type")
    if kind not in ("gemma3_text", "gemma3"):
        raise ValueError(
            "The `model_type` of config.json must be 'gemma3_text' or 'gemma3'. "
            f"Received: model_type={shown(kind)} in {directory}"
        )
    found = read_safetensors(directory)
    for name, tensor in found.items():
        if str(tensor.dtype) not in _FLOATS:
            raise ValueError(
                f"Weights must be of one of the types {', '.join(_FLOATS)}; a quantized checkpoint "
                f"is read from a GGUF file. Received: {name} of type {tensor.dtype} in {directory}"
            )
    tensors = {_without_prefix(name): tensor for name, tensor in found.items()}
    if kind == "gemma3_text":
        return {"text_config": values, "vision_config": None}, tensors
    is_tied = values.get("tie_word_embeddings", True)
    text = {"tie_word_embeddings": is_tied, **(values.get("text_config") or {})}
    # A config may leave out what its class sets by default, a whole part even.
    parts = {"text_config": text, "vision_config": values.get("vision_config") or {}}
    return {**values, **parts}, tensors


def _without_prefix(name):
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    name = name.removeprefix(prefix)
    return _TOWER + name.removeprefix(_OLDER_TOWER) if name.startswith(_OLDER_TOWER) else name
