"""The tasks of T5Gemma 1: those of T5Gemma 2, on a `T5GemmaBackbone`."""

import keras

from keras_t5gemma2.model.t5gemma1 import T5GemmaBackbone
from keras_t5gemma2.preprocessing.t5gemma1 import T5GemmaSeq2SeqLMPreprocessor
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.text_classifier import T5Gemma2TextClassifier
from keras_t5gemma2.tasks.text_embedder import T5Gemma2TextEmbedder
from keras_t5gemma2.tasks.token_classifier import T5Gemma2TokenClassifier


class OfT5Gemma1:
    """What makes a task one of T5Gemma 1; goes before the class of T5Gemma 2."""

    generation = 1
    backbone_cls = T5GemmaBackbone
    preprocessor_cls = T5GemmaSeq2SeqLMPreprocessor


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaSeq2SeqLM(OfT5Gemma1, T5Gemma2Seq2SeqLM):
    """A T5Gemma 1 that reads and writes text: `T5Gemma2Seq2SeqLM` without images.

    Args:
        backbone: `T5GemmaBackbone`.
        preprocessor: `T5GemmaSeq2SeqLMPreprocessor`, or `None` to work on arrays only.
        cross_attention_cache: as `T5Gemma2Seq2SeqLM` has it; so have the next.
        cache_dtype: "auto" or "int8".
        head: "auto", "exact" or "screened". A soft cap of logits, as published models have it,
            needs the exact one.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> layer = AttentionConfig(2, 1, 8, qk_norm=False, soft_cap=50.0)
    >>> encoder = StackConfig(24, 32, (layer,))
    >>> decoder = StackConfig(16, 32, (layer,), cross_attention_dim=24)
    >>> config = BackboneConfig(50, encoder, decoder, None, None, None, 30.0, decoder_table=True)
    >>> backbone = keras_t5gemma2.T5GemmaBackbone(config)
    >>> ids = np.ones((1, 3), "int32")
    >>> inputs = {"encoder_token_ids": ids, "encoder_padding_mask": ids}
    >>> inputs |= {"decoder_token_ids": ids, "decoder_padding_mask": ids}
    >>> lm = keras_t5gemma2.T5GemmaSeq2SeqLM(backbone)
    >>> tuple(lm(inputs).shape)
    (1, 3, 50)
    """


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaTextClassifier(OfT5Gemma1, T5Gemma2TextClassifier):
    """A T5Gemma 1 that gives a text classes; as `T5Gemma2TextClassifier`, without images.

    Args:
        backbone: `T5GemmaBackbone`.
        num_classes: int. As `T5Gemma2TextClassifier` has it; so have all others.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> layer = AttentionConfig(2, 1, 8, qk_norm=False, soft_cap=50.0)
    >>> encoder = StackConfig(24, 32, (layer,))
    >>> decoder = StackConfig(16, 32, (layer,), cross_attention_dim=24)
    >>> config = BackboneConfig(50, encoder, decoder, None, None, None, 30.0, decoder_table=True)
    >>> backbone = keras_t5gemma2.T5GemmaBackbone(config)
    >>> ids = np.ones((1, 3), "int32")
    >>> inputs = {"encoder_token_ids": ids, "encoder_padding_mask": ids}
    >>> classifier = keras_t5gemma2.T5GemmaTextClassifier(backbone, num_classes=2)
    >>> tuple(classifier(inputs).shape)
    (1, 2)
    """

    reference_class = "T5GemmaForSequenceClassification"


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaTokenClassifier(OfT5Gemma1, T5Gemma2TokenClassifier):
    """A T5Gemma 1 that gives each token classes; as `T5Gemma2TokenClassifier`, without images.

    Args:
        backbone: `T5GemmaBackbone`.
        num_classes: int. As `T5Gemma2TokenClassifier` has it; so have all others.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> layer = AttentionConfig(2, 1, 8, qk_norm=False, soft_cap=50.0)
    >>> encoder = StackConfig(24, 32, (layer,))
    >>> decoder = StackConfig(16, 32, (layer,), cross_attention_dim=24)
    >>> config = BackboneConfig(50, encoder, decoder, None, None, None, 30.0, decoder_table=True)
    >>> backbone = keras_t5gemma2.T5GemmaBackbone(config)
    >>> ids = np.ones((1, 3), "int32")
    >>> inputs = {"encoder_token_ids": ids, "encoder_padding_mask": ids}
    >>> classifier = keras_t5gemma2.T5GemmaTokenClassifier(backbone, num_classes=2)
    >>> tuple(classifier(inputs).shape)
    (1, 3, 2)
    """

    reference_class = "T5GemmaForTokenClassification"


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5GemmaTextEmbedder(OfT5Gemma1, T5Gemma2TextEmbedder):
    """Vectors of texts by the encoder of a T5Gemma 1; as `T5Gemma2TextEmbedder`, without images.

    Args:
        backbone: `T5GemmaBackbone`. All others are as `T5Gemma2TextEmbedder` has them.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> layer = AttentionConfig(2, 1, 8, qk_norm=False, soft_cap=50.0)
    >>> encoder = StackConfig(24, 32, (layer,))
    >>> decoder = StackConfig(16, 32, (layer,), cross_attention_dim=24)
    >>> config = BackboneConfig(50, encoder, decoder, None, None, None, 30.0, decoder_table=True)
    >>> backbone = keras_t5gemma2.T5GemmaBackbone(config)
    >>> ids = np.ones((1, 3), "int32")
    >>> inputs = {"encoder_token_ids": ids, "encoder_padding_mask": ids}
    >>> embedder = keras_t5gemma2.T5GemmaTextEmbedder(backbone)
    >>> tuple(embedder(inputs).shape)
    (1, 24)
    """
