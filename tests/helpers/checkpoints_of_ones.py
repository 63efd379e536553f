"""Checkpoints as large as is asked for, to see what memory they take."""

import json
import math

import numpy as np
from safetensors.numpy import save_file

from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers
from keras_t5gemma2.checkpoints.transformers.names import rows
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import shapes_only


def write_checkpoint(directory, dtype, hidden_dim, num_layers, num_shards=1):
    """Writes ones under every name of a text model; returns the number of weights."""
    text = {
        "vocab_size": num_layers * 10 * hidden_dim,
        "hidden_size": hidden_dim,
        "intermediate_size": 4 * hidden_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": hidden_dim // 4,
    }
    values = {"model_type": "t5gemma2", "encoder": {"text_config": text}, "decoder": text}
    config = config_from_transformers(values, text_only=True)
    model = shapes_only(lambda: T5Gemma2Backbone(config))
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    tensors = {
        row.name: np.ones(row.layout.from_variable_shape(shapes[row.path]), dtype)
        for row in rows(config)
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(values))
    files = {name: f"{i % num_shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        part = {name: tensor for name, tensor in tensors.items() if files[name] == file}
        save_file(part, directory / (file if num_shards > 1 else "model.safetensors"))
    if num_shards > 1:
        index = {"weight_map": files}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(map(math.prod, shapes.values()))
