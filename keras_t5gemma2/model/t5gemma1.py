"""The backbone of T5Gemma 1: that of T5Gemma 2, of another config."""

import keras

from keras_t5gemma2.model.backbone import T5Gemma2Backbone, register_for_import


@register_for_import
@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaBackbone(T5Gemma2Backbone):
    """The hidden states of a T5Gemma 1 encoder-decoder, or of its encoder alone.

    It takes text alone, and is in all else as `T5Gemma2Backbone`, whose layers it has: those of a
    `BackboneConfig` with soft caps and without query and key norms, whose decoder attends to the
    encoder's output apart (`cross_attention_dim`), may be of another width than the encoder, and
    has an embedding table of its own, `decoder_embedder`.

    Args:
        config: `BackboneConfig`, or the dict that its `to_dict` gives.
        dtype: as `T5Gemma2Backbone` has it; so have all others.
        gradient_checkpointing: bool.
        quantized_layers: dict.
        rounds_activations: bool.
        source: string.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> sizes = {"head_dim": 8, "qk_norm": False, "soft_cap": 50.0}
    >>> layer = AttentionConfig(num_heads=2, num_kv_heads=1, **sizes)
    >>> encoder = StackConfig(hidden_dim=24, mlp_dim=32, layers=(layer,))
    >>> decoder = StackConfig(hidden_dim=16, mlp_dim=32, layers=(layer,), cross_attention_dim=24)
    >>> config = BackboneConfig(50, encoder, decoder, None, None, None, 30.0, decoder_table=True)
    >>> backbone = keras_t5gemma2.T5GemmaBackbone(config)
    >>> ids = {"encoder_token_ids": np.ones((2, 7)), "decoder_token_ids": np.ones((2, 3))}
    >>> masks = {"encoder_padding_mask": np.ones((2, 7)), "decoder_padding_mask": np.ones((2, 3))}
    >>> outputs = backbone({**ids, **masks})
    >>> tuple(outputs["decoder_sequence_output"].shape)
    (2, 3, 16)
    """

    generation = 1

    @classmethod
    def class_of_presets(cls) -> type[T5Gemma2Backbone]:
        """As of `T5Gemma2Backbone`.

        Example:

        >>> keras_t5gemma2.T5GemmaBackbone.class_of_presets().__name__
        'T5GemmaBackbone'
        """
        return T5GemmaBackbone
