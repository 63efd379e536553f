"""The loss and metrics of target tokens, each token as its weight says."""

import keras
import keras_hub
from keras import ops


class TokenLoss:
    """Means over the tokens of all batches of an epoch, however unequal the batches are.

    Args:
        has_metrics: bool. Whether to keep the accuracy and the perplexity beside the loss.
    """

    def __init__(self, has_metrics):
        self.mean = keras.metrics.Mean(name="token_loss")
        self.accuracy = keras.metrics.Mean(name="accuracy")
        self.perplexity = Perplexity(name="perplexity")
        self.metrics = [self.mean]
        if has_metrics:
            self.metrics += [self.accuracy, self.perplexity]

    def update(self, sums, extra):
        """The loss of a batch of `kernels.TokenSums`, which is taken into the means.

        Args:
            sums: `kernels.TokenSums`. A batch without weight has the loss 0.
            extra: scalar tensor, or 0. What layers add to the loss, such as regularization.
        """
        loss = ops.divide_no_nan(sums.loss, sums.weight)
        self.mean.update_state(loss + extra, sample_weight=sums.weight)
        self.perplexity.update_state(loss, sample_weight=sums.weight)
        accuracy = ops.divide_no_nan(sums.correct, sums.weight)
        self.accuracy.update_state(accuracy, sample_weight=sums.weight)
        return loss + extra


class Perplexity(keras.metrics.Mean):
    """The exponential of a mean."""

    def result(self):
        return ops.exp(super().result())


def metrics_of_logits():
    """The same metrics for a loss of the user's own."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras_hub.metrics.Perplexity(from_logits=True, name="perplexity"),
    ]


def token_weights(labels, sample_weight):
    """(B, T) float32 weights: 1 by default; a weight of a row counts for each of its tokens."""
    if sample_weight is None:
        return ops.ones(ops.shape(labels), "float32")
    # Also where TensorFlow, having seen weights of rows and of tokens, no longer knows the rank.
    weights = ops.reshape(ops.cast(sample_weight, "float32"), (ops.shape(labels)[0], -1))
    return ops.broadcast_to(weights, ops.shape(labels))
