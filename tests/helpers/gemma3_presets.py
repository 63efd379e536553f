"""Gemma 3 models of keras-hub with random weights, and what a vision tower makes of images."""

import keras
import keras_hub
from keras import ops
from tiny_models import randomize

HUB = {
    **{"vocabulary_size": 101, "image_size": 28, "num_layers": 7, "num_query_heads": 4},
    **{"num_key_value_heads": 2, "hidden_dim": 32, "intermediate_dim": 44, "head_dim": 16},
    **{"use_post_ffw_norm": True, "use_post_attention_norm": True, "sliding_window_size": 6},
    **{"use_sliding_window_attention": True, "global_rope_scaling_factor": 8.0},
}
HUB_VISION = {
    **{"image_size": 28, "patch_size": 7, "num_heads": 3, "hidden_dim": 24, "num_layers": 2},
    **{"intermediate_dim": 36, "output_dim": 32, "pool_size": 2},
}


def features(backbone, images):
    """What the encoder gets for images, (images, tokens, width)."""
    size = images.shape[1]
    # As a model of its own each backend compiles it in its way.
    inputs = keras.Input((size, size, 3))
    model = keras.Model(inputs, backbone.vision.projector(backbone.vision.tower(inputs)))
    return ops.convert_to_numpy(model.predict_on_batch(images))


def hub_backbone(vision=False, seed=0, **changes):
    encoder = keras_hub.models.Gemma3VisionEncoder(**HUB_VISION) if vision else None
    backbone = keras_hub.models.Gemma3Backbone(vision_encoder=encoder, **{**HUB, **changes})
    randomize(backbone, seed)
    return backbone
