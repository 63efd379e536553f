"""Which generation a `config.json` of the reference is of, and who reads and writes it."""

from keras_t5gemma2.checkpoints.transformers import config, config_writer, t5gemma1


def reader_of(values):
    """The module with `config_from_transformers`, `context_lengths` and `reference_head`.

    Args:
        values: dict, the parsed `config.json`.

    >>> reader_of({"model_type": "t5gemma"}).MODEL_TYPE
    't5gemma'
    """
    return t5gemma1 if values.get("model_type") == t5gemma1.MODEL_TYPE else config


def writer_of(backbone_config):
    """The module with `config_to_transformers` and `CONTEXT_LENGTHS` for a `BackboneConfig`."""
    return t5gemma1 if backbone_config.generation == 1 else config_writer
