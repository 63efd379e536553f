"""The one table of embeddings."""

from keras import initializers, layers, ops

from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.residual import sum_dtype, take_sums
from keras_t5gemma2.quantization.counting import CountsParameters
from keras_t5gemma2.quantization.layers import QuantizedEmbedding


@registered
class Embedder(CountsParameters, PlainCall, Configured, layers.Layer):
    """The one embedding table: ids to vectors for both stacks, and hidden states to logits.

    The end-of-image id has a vector of its own, which is not scaled and which the logits do not
    see (reference: `T5Gemma2TextScaledWordEmbedding`).

    Args:
        config: `BackboneConfig`.
    """

    arguments = {"config": BackboneConfig}

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        take_sums(self)
        self.config = config
        self.table = QuantizedEmbedding(
            config.vocabulary_size,
            config.hidden_dim,
            embeddings_initializer=initializers.RandomNormal(stddev=0.02),
            logit_soft_cap=config.final_logit_soft_cap,
            dtype=self.dtype_policy,
            name="table",
        )

    def build(self, _):
        self.table.build()
        self.end_of_image = self.add_weight(
            name="end_of_image", shape=(self.config.hidden_dim,), initializer="zeros"
        )
        self.built = True

    def call(self, token_ids):
        x = self.table(token_ids)
        x = ops.cast(x, sum_dtype(self.compute_dtype))
        # The scale is rounded to the dtype of the vectors, as in the reference.
        x = x * ops.cast(self.config.hidden_dim**0.5, x.dtype)
        is_end_of_image = ops.equal(token_ids, self.config.end_of_image_token_id)
        return ops.where(
            ops.expand_dims(is_end_of_image, -1), ops.cast(self.end_of_image, x.dtype), x
        )

    def compute_output_shape(self, shape):
        return (*shape, self.config.hidden_dim)
