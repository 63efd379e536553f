"""The task: text and images in, text out; trained with `fit`, run with `generate`."""

import keras

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.generation.generator import Generates
from keras_t5gemma2.generation.infilling import Infills
from keras_t5gemma2.generation.streaming import Streams
from keras_t5gemma2.generation.warmup import WarmsUp
from keras_t5gemma2.tasks.task import T5Gemma2Task


def _refuse_to_be_cloned(lm):
    raise ValueError(
        "`clone_model` would make a plain model of the task, without `generate`, and whose logits "
        f"are untied from the embedding table. Received: a {type(lm).__name__}. Call "
        "`type(lm)(type(lm.backbone).from_config(lm.backbone.get_config()), lm.preprocessor)`, and "
        "`set_weights(lm.get_weights())` for the same weights"
    )


@compat.asked_before_cloning(_refuse_to_be_cloned)
@keras.saving.register_keras_serializable(package="keras_t5gemma2")
# Torch's compiler goes through a step of Keras's trainer piece by piece, for minutes.
@compat.never_torch_compiled
class T5Gemma2Seq2SeqLM(Generates, Infills, Streams, WarmsUp, T5Gemma2Task):
    """A T5Gemma 2 model that reads text and images and writes text.

    Called on the arrays that its preprocessor makes (see `T5Gemma2Backbone` for the keys), it
    gives logits of (batch, decoder length, vocabulary). `generate`, `fit`, `evaluate` and
    `predict` take raw text and images.

    Args:
        backbone: `T5Gemma2Backbone`.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        cross_attention_cache: "auto", "projected" or "shared", what `generate` keeps of the
            encoder's output; see the attribute.
        cache_dtype: "auto" or "int8", how `generate` stores what it keeps; see the attribute.
    """

    def __init__(
        self,
        backbone,
        preprocessor=None,
        cross_attention_cache="auto",
        cache_dtype="auto",
        **kwargs,
    ):
        super().__init__(backbone, preprocessor, **kwargs)
        self.cross_attention_cache = cross_attention_cache
        self.cache_dtype = cache_dtype

    def get_config(self):
        return {
            **super().get_config(),
            "cross_attention_cache": self.cross_attention_cache,
            "cache_dtype": self.cache_dtype,
        }

    def outputs_of(self, of_backbone):
        """What the task gives, of what its backbone gives."""
        return self.logits(of_backbone["decoder_sequence_output"])

    def logits(self, hidden):
        """(..., vocabulary) logits of (..., hidden_dim) outputs of the decoder."""
        return self.backbone.token_embedding(hidden, reverse=True)
