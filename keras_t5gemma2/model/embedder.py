"""The one table of embeddings."""

from keras import layers, ops

from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.linear import CountsParameters, embedding_table
from keras_t5gemma2.model.residual import sum_dtype, take_sums


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
        sizes = config.vocabulary_size, config.hidden_dim
        self.table = embedding_table(self, "table", *sizes, config.final_logit_soft_cap)

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
        end_of_image = ops.cast(self.end_of_image, x.dtype)
        return ops.where(ops.expand_dims(is_end_of_image, -1), end_of_image, x)

    def compute_output_shape(self, shape):
        return (*shape, self.config.hidden_dim)
