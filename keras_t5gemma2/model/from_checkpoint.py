"""The backbone of a checkpoint, whatever format its files have."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.files.limits import check_size
from keras_t5gemma2.messages import short_errors
from keras_t5gemma2.model.loading import build_with_weights
from keras_t5gemma2.model.quantize import load_quantized
from keras_t5gemma2.quantization import plans


def load_backbone(
    cls,
    checkpoint,
    load_weights=True,
    quantize=None,
    allow_nonfinite=False,
    dtype=None,
    **kwargs,
):
    """Builds a backbone and fills it with the weights of a checkpoint.

    Args:
        cls: the class of the backbone.
        checkpoint: `Checkpoint`.
        load_weights: bool. If false, the weights are random and no file of weights is needed.
        quantize: as `T5Gemma2Backbone.from_preset` has it.
        allow_nonfinite: bool. Whether weights may be NaN or infinite.
        dtype: string or `keras.DTypePolicy` of every part; `None` is Keras's global policy. In a
            quantized preset it is that of what is no integer.
        **kwargs: further arguments of the backbone, instead of those in the checkpoint.

    Returns:
        The backbone. What its weights derive from is its `source`, if they are loaded.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, does not fit the config, or describes another model.
    """

    def load():
        with short_errors():
            keras.dtype_policies.get(dtype)
        config = checkpoint.config
        check_size(config, checkpoint.origin)
        settings = {**checkpoint.settings, "dtype": dtype, **kwargs}
        _check_quantized_once(checkpoint)
        if not load_weights:
            return cls(config, **settings)
        settings.setdefault("source", checkpoint.source)
        tensors = checkpoint.tensors()
        backbone = build_with_weights(lambda: cls(config, **settings), tensors, allow_nonfinite)
        if checkpoint.end_of_image_is_in_table:
            _set_end_of_image(backbone.embedder)
        return backbone

    return load_quantized(load, load_weights, quantize)


def _check_quantized_once(checkpoint):
    modes = checkpoint.settings.get("quantized_layers")
    if modes and plans.is_planned():
        layer, mode = next(iter(modes.items()))
        raise ValueError(
            "`quantize` must not be given for a preset that is quantized already. Received: "
            f"{checkpoint.origin}, whose {layer} is {mode}"
        )


def _set_end_of_image(embedder):
    """Gives the end-of-image id the vector that it has in Gemma 3, so that nothing changes.

    T5Gemma 2 does not scale this vector. Gemma 3 scales it like all others, and in the dtype of
    the computation.
    """
    config = embedder.config
    if config.end_of_image_token_id < config.vocabulary_size:
        x = embedder.table(np.array([config.end_of_image_token_id]))[0]
        embedder.end_of_image.assign(x * ops.cast(config.hidden_dim**0.5, x.dtype))
