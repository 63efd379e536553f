"""What a saved model keeps of `compile`: the optimizer, the loss, the metrics and the sampler."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.messages import shown


def compile_config(task, of_keras):
    """The config that `compile_from` takes.

    Args:
        task: a compiled task.
        of_keras: dict, what `keras.Model.get_compile_config` gives of it.
    """
    if not of_keras:
        return of_keras
    config = dict(of_keras)
    if task.token_loss is not None:
        config["loss"] = "auto"
        if len(task.token_loss.metrics) > 1:
            config["weighted_metrics"] = "auto"
    # The present one: `enable_lora` makes another than that of `compile`.
    config["optimizer"] = keras.saving.serialize_keras_object(task.optimizer)
    sampler = getattr(task, "sampler", None)  # of a task that generates
    if sampler is not None:
        config["sampler"] = keras.saving.serialize_keras_object(sampler)
    config["state"] = {
        "is_default_optimizer": task.has_default_optimizer,
        "is_optimizer_built": bool(getattr(task.optimizer, "built", False)),
        "sampler": [
            ops.convert_to_numpy(variable).tolist()
            for variable in getattr(sampler, "variables", ())
        ],
    }
    return config


def compile_from(task, config):
    """Compiles a task as `compile_config` says."""
    is_plain_dict = isinstance(config, dict) and "class_name" not in config
    if not is_plain_dict or not isinstance(config.get("state", {}), dict):
        raise ValueError(
            "The config of `compile` must be as `get_compile_config` gives it. Received: "
            f"{shown(config)}. Load with `compile=False`, and call `compile`"
        )
    state = config.get("state", {})
    described = {key: value for key, value in config.items() if key != "state"}
    config = keras.saving.deserialize_keras_object(described)
    task.compile(**config)
    task.has_default_optimizer = state.get("is_default_optimizer", False)
    of_sampler = getattr(getattr(task, "sampler", None), "variables", ())
    for variable, value in zip(of_sampler, state.get("sampler", ()), strict=False):
        variable.assign(np.array(value, keras.backend.standardize_dtype(variable.dtype)))
    if state.get("is_optimizer_built") and task.built and task.optimizer is not None:
        task.optimizer.build(task.trainable_variables)  # Its variables are read from the file.
