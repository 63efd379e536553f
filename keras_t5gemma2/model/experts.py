"""Several MLPs, of which each token takes a few."""

from typing import NamedTuple

from keras import initializers, layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import StackConfig
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.mlp import GatedMLP
from keras_t5gemma2.typing import Tensor


class Routed(NamedTuple):
    """What became of the tokens of each row of a batch: float32 sums over those that count."""

    chosen: Tensor  # (B, E): how many of them took each expert
    probabilities: Tensor  # (B, E): of each expert
    squares: Tensor  # (B,): of the logarithm of the sum of the exponentials of the logits
    tokens: Tensor  # (B,): how many count; padding does not


@registered
class Experts(PlainCall, Configured, layers.Layer):
    """A sum of the MLPs that a router takes for a token, weighted by its probabilities.

    The router is a matrix whose product with a token gives a logit for each expert; the
    probabilities are their softmax. With "top_k" as `router` the probabilities of the `top_k`
    likeliest are divided by their sum, so that experts that are all the same give what one of them
    gives. With "switch" the likeliest alone is taken, times its probability (arXiv 2101.03961).
    No expert is ever full.

    Args:
        config: `StackConfig` with `experts`.
    """

    arguments = {"config": StackConfig}

    def __init__(self, config, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config = config
        same = {"dtype": self.dtype_policy}
        count = config.experts.num_experts
        self.experts = [GatedMLP(config, name=f"expert_{i}", **same) for i in range(count)]

    def build(self, _):
        shape = self.config.hidden_dim, len(self.experts)
        normal = initializers.RandomNormal(stddev=0.02)
        # In float32 whatever the policy: the nearest of two logits decides.
        self.router = self.add_weight(shape, normal, dtype="float32", name="router")
        for expert in self.experts:
            expert.build((None, None, self.config.hidden_dim))
        self.built = True

    def call(self, x, at, training=False):
        """The float32 (B, T, D) output.

        Args:
            x: (B, T, D) tensor.
            at: `Positions`; what stands at -1 takes no expert. In training its list `routed` gets
                a `Routed`.
        """
        logits = ops.matmul(ops.cast(x, "float32"), self.router)
        counts = ops.cast(at.positions >= 0, "float32")[..., None]
        probabilities = ops.softmax(logits)
        chosen = _chosen(probabilities, self.config.experts.top_k)
        shares = probabilities * chosen
        if not self.config.experts.switch:
            shares = shares / ops.sum(shares, axis=-1, keepdims=True)
        if training:
            squares = ops.square(ops.logsumexp(logits, axis=-1))
            sums = (chosen * counts, probabilities * counts, squares * counts[..., 0])
            at.routed.append(Routed(*(ops.sum(x, axis=1) for x in (*sums, counts[..., 0]))))
        return kernels.mixture(x, shares * counts, self.experts, training)


def _chosen(probabilities, count):
    """(..., E) of 0 and 1, which has no gradient: whether an expert is among the likeliest."""
    ids = ops.top_k(probabilities, count)[1]
    ones = ops.one_hot(ids, probabilities.shape[-1], dtype="float32")
    return ops.stop_gradient(ops.sum(ones, axis=-2))


def balance_loss(config, routed):
    """The two losses of a router, weighted as the config says; a float32 scalar.

    The first is smallest where each expert gets as many tokens, the second where logits are small.
    Over all layers together, as in the reference: `load_balancing_loss_func` of its Mixtral for
    "top_k", and for "switch", which balances each row by itself, that of its Switch Transformer;
    and `router_z_loss_func` of the latter.

    Args:
        config: `ExpertsConfig`.
        routed: list of `Routed`, one of each layer that has experts.
    """
    chosen, probabilities, squares, tokens = (
        sum(getattr(layer, name) for layer in routed) for name in Routed._fields
    )
    if config.switch:
        number = ops.maximum(tokens, 1.0)[:, None]
        of_rows = ops.sum(chosen / number * probabilities / number, axis=-1)
        has_tokens = ops.cast(tokens > 0, "float32")
        balance = ops.sum(of_rows) / ops.maximum(ops.sum(has_tokens), 1.0)
    else:
        number = ops.maximum(ops.sum(tokens), 1.0)
        balance = ops.sum(ops.sum(chosen, axis=0) * ops.sum(probabilities, axis=0)) / number**2
    balance = balance * config.num_experts
    z_loss = ops.sum(squares) / ops.maximum(ops.sum(tokens), 1.0)
    return config.balance_loss * balance + config.z_loss * z_loss
