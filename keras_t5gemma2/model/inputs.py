"""The inputs of a backbone: their symbolic form, and empty images where none are given."""

import keras
from keras import ops

from keras_t5gemma2.model.array_checks import check_image_features, image_shapes

_TEXT = ("token_ids", "padding_mask")


def symbolic_inputs(config):
    """Dict of `keras.Input`, of images where the `BackboneConfig` has a vision tower."""
    names = [f"{stack}_{what}" for stack in config.stacks for what in _TEXT]
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    for name, shape in image_shapes(config.vision).items():
        if name == "image_features":
            shape = (None, None)  # the preprocessor's empty ones do not know how wide the tower is
        inputs[name] = keras.Input((None, *shape), dtype="float32", name=name, optional=True)
    return inputs


def completed(inputs, vision):
    """See `T5Gemma2Backbone.complete`; `vision` is the `VisionConfig` or `None`."""
    if not _has_ids(inputs):
        return inputs  # Keras's own message tells what to do
    given = {name: value for name, value in inputs.items() if value is not None}
    if not all(hasattr(value, "shape") for value in given.values()):
        return inputs
    if any(keras.backend.is_keras_tensor(value) for value in given.values()):
        return {**dict.fromkeys(image_shapes(vision)), **given}
    # Keras refuses a dict of arrays and tensors mixed.
    given = {name: ops.convert_to_tensor(value) for name, value in given.items()}
    batch = ops.shape(given["encoder_token_ids"])[0]
    for name, shape in image_shapes(vision).items():
        if name not in given:
            given[name] = ops.zeros((batch, 0, *shape))
    if "image_features" in given:
        check_image_features(vision, given["image_features"])
    return given


def of_encoder(inputs):
    """`inputs` without what the decoder reads, if they are a dict."""
    if not isinstance(inputs, dict):
        return inputs
    return {name: x for name, x in inputs.items() if not name.startswith("decoder_")}


def completed_spec(inputs, vision):
    """See `T5Gemma2Backbone.complete_spec`."""
    inputs = completed(inputs, vision)
    if _has_ids(inputs):
        batch = inputs["encoder_token_ids"].shape[0]
        for name, shape in image_shapes(vision).items():
            if inputs[name] is None:
                inputs[name] = keras.KerasTensor((batch, 0, *shape))
    return inputs


def _has_ids(inputs):
    return isinstance(inputs, dict) and "encoder_token_ids" in inputs
