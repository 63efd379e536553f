"""Small models of keras-hub's own T5Gemma 2, with random weights everywhere."""

import pathlib

import keras
import keras_hub
import numpy as np
from keras import ops

import keras_t5gemma2

# A SentencePiece model with all the tokens for images.
SPM = (
    pathlib.Path(keras_t5gemma2.presets["t5gemma2_tiny"]["directory"])
    / "assets/tokenizer/vocabulary.model"
)
TOKENIZER = keras_t5gemma2.T5Gemma2Tokenizer(SPM)
IMAGE_SIZE, TOKENS_PER_IMAGE = 28, 4
_SLIDING, _FULL = "sliding_attention", "full_attention"
_CONFIG = {
    "vocabulary_size": TOKENIZER.vocabulary_size(),
    "encoder_hidden_dim": 28,
    "encoder_intermediate_dim": 44,
    "encoder_num_layers": 2,
    "encoder_num_attention_heads": 6,
    "encoder_num_key_value_heads": 3,
    "encoder_head_dim": 8,
    "encoder_layer_types": [_SLIDING, _FULL],
    "decoder_hidden_dim": 28,
    "decoder_intermediate_dim": 36,
    "decoder_num_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_num_key_value_heads": 1,
    "decoder_head_dim": 10,
    "decoder_layer_types": [_SLIDING, _FULL],
    "rms_norm_eps": 1e-5,
    "query_pre_attn_scalar": 11.0,
    "sliding_window": 5,
    "final_logit_softcapping": 3.0,
    "rope_max_wavelength": 9_000.0,
    "global_rope_scaling_factor": 8.0,
    "encoder_rope_max_wavelength": 11_000.0,
    "encoder_global_rope_scaling_factor": 4.0,
    "eoi_token_index": TOKENIZER.end_of_image_token_id,
}
_VISION = {
    "image_size": IMAGE_SIZE,
    "patch_size": 7,
    "num_heads": 3,
    "hidden_dim": 24,
    "num_layers": 2,
    "intermediate_dim": 40,
    "output_dim": 28,
    "pool_size": 2,
    "layer_norm_epsilon": 1e-5,
}


def hub_backbone(vision=True, dtype=None, seed=0, **changes):
    """A `keras_hub.models.T5Gemma2Backbone` as it is published: what is one in T5Gemma 2, equal."""
    encoder = keras_hub.models.Gemma3VisionEncoder(**_VISION, dtype=dtype) if vision else None
    config = {**_CONFIG, **changes}
    backbone = keras_hub.models.T5Gemma2Backbone(**config, vision_encoder=encoder, dtype=dtype)
    rng = np.random.default_rng(seed)
    for weight in backbone.weights:
        fan_in = weight.shape[0] if len(weight.shape) > 1 else 1
        usual = 1.0 if weight.path.endswith("gamma") else 0.0
        is_small = len(weight.shape) == 1 or "embedding" in weight.path
        scale = 0.2 if is_small else fan_in**-0.5
        weight.assign(usual + scale * rng.normal(size=weight.shape))
    # By way of numpy: on JAX the two variables would share one buffer.
    table = ops.convert_to_numpy(backbone.token_embedding.embeddings)
    backbone.decoder_token_embedding.embeddings.assign(table)
    if vision:
        vector = ops.convert_to_numpy(backbone.encoder_eoi_embedding)
        backbone.decoder_eoi_embedding.assign(vector)
    return backbone


def hub_task(vision=True, **options):
    """A `keras_hub.models.T5Gemma2Seq2SeqLM` with all that belongs to it."""
    converter = keras_hub.layers.T5Gemma2ImageConverter(
        image_size=(IMAGE_SIZE, IMAGE_SIZE), scale=1 / 127.5, offset=-1
    )
    preprocessor = keras_hub.models.T5Gemma2Seq2SeqLMPreprocessor(
        keras_hub.models.T5Gemma2Tokenizer(str(SPM)),
        image_converter=converter if vision else None,
        image_size=IMAGE_SIZE if vision else None,
        num_vision_tokens_per_image=TOKENS_PER_IMAGE if vision else None,
    )
    return keras_hub.models.T5Gemma2Seq2SeqLM(hub_backbone(vision, **options), preprocessor)


def inputs(vision=True):
    """Two rows of ids, padded, with the end of an image in both streams; an image each."""
    rng = np.random.default_rng(1)
    arrays = {}
    for part, lengths in (("encoder", (17, 13)), ("decoder", (9, 4))):
        ids, mask = np.zeros((2, 2, max(lengths)), "int32")
        for row, length in enumerate(lengths):
            ids[row, :length] = rng.integers(300, 400, size=length)
            mask[row, :length] = 1
        ids[:, 2] = TOKENIZER.end_of_image_token_id
        arrays |= {f"{part}_token_ids": ids, f"{part}_padding_mask": mask}
    if vision:
        arrays["encoder_token_ids"][:, 3 : 3 + TOKENS_PER_IMAGE] = TOKENIZER.image_token_id
        shape = (2, 1, IMAGE_SIZE, IMAGE_SIZE, 3)
        arrays["images"] = rng.uniform(-1, 1, size=shape).astype("float32")
    return arrays


def logits_of_hub(task, vision=True):
    """The logits of `inputs` where there is a token, by keras-hub."""
    arrays = inputs(vision)
    mask = arrays["decoder_padding_mask"].astype(bool)
    if vision:
        is_image = arrays["encoder_token_ids"] == TOKENIZER.image_token_id
        places = np.nonzero(is_image)[1].reshape(2, -1)
        arrays["vision_indices"] = places.astype("int32")
    return _logits(task, arrays)[mask]


def logits_of(task, vision=True):
    """The same by this package."""
    arrays = inputs(vision)
    mask = arrays["decoder_padding_mask"].astype(bool)
    return _logits(task, task.backbone.complete(arrays))[mask]


def _logits(task, arrays):
    """In one compiled program: on JAX, a model op by op takes a minute."""
    return np.asarray(keras.Model.predict_on_batch(task, arrays))
