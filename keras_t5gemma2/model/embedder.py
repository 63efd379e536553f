"""The table of embeddings, of which some models have one for each stack."""

from keras import layers, ops

from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.linear import CountsParameters, embedding_table
from keras_t5gemma2.model.residual import sum_dtype, take_sums


@registered
class Embedder(CountsParameters, PlainCall, Configured, layers.Layer):
    """The one embedding table: ids to vectors for both stacks, and hidden states to logits.

    The end-of-image id, where there is one, has a vector of its own, which is not scaled and which
    the logits do not see (reference: `T5Gemma2TextScaledWordEmbedding`).

    Args:
        config: `BackboneConfig`.
    """

    arguments = {"config": BackboneConfig}
    _stack = "encoder"  # whose states are as wide as the vectors

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        take_sums(self)
        self.config = config
        self.hidden_dim = getattr(config, self._stack).hidden_dim
        sizes = config.vocabulary_size, self.hidden_dim
        self.table = embedding_table(self, "table", *sizes, config.final_logit_soft_cap)
        self.end_of_image = None

    def build(self, _):
        self.table.build()
        if self.config.end_of_image_token_id is not None:
            self.end_of_image = self.add_weight(
                name="end_of_image", shape=(self.hidden_dim,), initializer="zeros"
            )
        self.built = True

    def call(self, token_ids):
        x = self.table(token_ids)
        x = ops.cast(x, sum_dtype(self.compute_dtype))
        # The scale is rounded to the dtype of the vectors, as in the reference.
        x = x * ops.cast(self.hidden_dim**0.5, x.dtype)
        if self.end_of_image is None:
            return x
        is_end_of_image = ops.equal(token_ids, self.config.end_of_image_token_id)
        end_of_image = ops.cast(self.end_of_image, x.dtype)
        return ops.where(ops.expand_dims(is_end_of_image, -1), end_of_image, x)

    def compute_output_shape(self, shape):
        return (*shape, self.hidden_dim)


@registered
class DecoderEmbedder(Embedder):
    """The decoder's own table where it has one: ids to its vectors, and its states to logits."""

    _stack = "decoder"
