"""The two stacks of layers."""

import keras
from keras import layers, ops

from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.config import StackConfig
from keras_t5gemma2.kernels import Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.attention import Memory
from keras_t5gemma2.model.blocks import Block
from keras_t5gemma2.model.experts import Routed, balance_loss
from keras_t5gemma2.model.gradient_checkpointing import recomputed
from keras_t5gemma2.model.linear import CountsParameters, linears
from keras_t5gemma2.model.norm import RMSNorm
from keras_t5gemma2.model.residual import dropout_of, dropped, sum_dtype
from keras_t5gemma2.model.rotary import Positions
from keras_t5gemma2.options import integer
from keras_t5gemma2.sharding.tokens import token_shards


class Stack(CountsParameters, PlainCall, Configured, layers.Layer):
    """Layers and a last norm; the subclass says which tokens see which.

    Args:
        config: `StackConfig`.
        gradient_checkpointing: bool. Whether training keeps the input of each layer only, and
            computes the rest again in the backward pass. May be set at any time.
    """

    arguments = {"config": StackConfig, "gradient_checkpointing": None}

    def __init__(self, config, gradient_checkpointing=False, **kwargs):
        # The layers cast their own weights, so that gradients keep the weights and no copies.
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.blocks = []
        for i, attention in enumerate(config.layers):
            sizes = config, attention, self.window_rule(attention.window)
            same = {"dtype": self.dtype_policy, "has_experts": config.has_experts(i)}
            self.blocks.append(Block(*sizes, **same, name=f"layer_{i}"))
        self.norm = RMSNorm(config.norm_epsilon, dtype=self.dtype_policy, name="norm")
        self.dropout = dropout_of(self)

    def build(self, x_shape):
        for layer in (*self.blocks, self.norm):
            layer.build((None, None, self.config.hidden_dim))
        self.built = True

    def compute_output_spec(self, x, *args, **kwargs):
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def _through_blocks(self, x, run, training, num_layers=None):
        """Output of the stack, and per block what `run(i, block, x)` gives beside its output.

        With `num_layers`, so many blocks run, and not the norm behind the last one.
        """
        x = dropped(self.dropout, ops.cast(x, sum_dtype(self.compute_dtype)), training)
        others = []
        for i, block in enumerate(self.blocks[:num_layers]):
            x, other = run(i, block, x)
            others.append(other)
        if num_layers is not None:
            return x, tuple(others)
        return dropped(self.dropout, self.norm(x), training), tuple(others)

    def _trained(self, block, function, *tensors, at, training):
        """`function(*tensors)`; with gradient checkpointing, only the tensors are kept."""
        if not (training and self.gradient_checkpointing):
            return function(*tensors)
        if not block.has_experts:
            return recomputed(block, function, *tensors)

        def with_routed(*tensors):
            # What is computed inside leaves as an output, or not at all.
            return function(*tensors), *at.routed.pop()

        x, *routed = recomputed(block, with_routed, *tensors)
        at.routed.append(Routed(*routed))
        return x

    def _balance(self, at):
        """Adds the loss of the routers to the model's."""
        if at.routed:
            self.add_loss(balance_loss(self.config.experts, at.routed))


@registered
class Encoder(Stack):
    """The bidirectional stack."""

    window_rule = staticmethod(Window.bidirectional)

    def checked_layer(self, layer):
        """What `call` takes as `num_layers`, of a number of hidden states as `encode` has it.

        Raises:
            ValueError: there are no such hidden states.
        """
        count, number = len(self.blocks), integer(layer)
        if number is None or not -count - 1 <= number <= count:
            raise ValueError(
                f"`layer` must be an integer from {-count - 1} to {count}, since the encoder has "
                f"{count} layers. Received: layer={shown(layer)}"
            )
        number %= count + 1
        return None if number == count else number

    def call(self, x, padding_mask, training=False, num_layers=None):
        """The encoder's output, (B, S, D), of embedded tokens of that shape.

        `padding_mask` is (B, S); what stands where it is 0 changes no other row or token. With
        `num_layers`, what comes out of so many layers, before any norm.
        """
        positions = encoder_positions(padding_mask)
        if (shards := token_shards(x.shape)) is not None:
            x, positions = shards.split(x), shards.split(positions, filler=-1)
        at = Positions(positions, self.config.layers, shards)

        def run(_, block, x):
            def forward(x):
                return block(x, at=at, training=training)[0]

            return self._trained(block, forward, x, at=at, training=training), None

        encoded = self._through_blocks(x, run, training, num_layers)[0]
        self._balance(at)
        return encoded if shards is None else shards.join(encoded)


@registered
class Decoder(Stack):
    """The causal stack, whose every layer also attends to the encoder's output."""

    window_rule = staticmethod(Window.causal)

    def call(self, x, padding_mask, encoded, encoder_padding_mask, training=False):
        """The decoder's output, (B, T, D), of embedded tokens of that shape, all at once."""
        at = Positions(decoder_positions(padding_mask), self.config.layers)
        seen = encoder_positions(encoder_padding_mask)

        def run(_, block, x):
            # The keys and values of the encoder's tokens are made here, once a layer and not
            # for all layers at once: gradient checkpointing keeps none of them.
            def forward(x, encoded):
                memory = block.memory_attention.remember(encoded, seen, training)
                return block(x, at=at, memory=memory, training=training)[0]

            return self._trained(block, forward, x, encoded, at=at, training=training), None

        decoded = self._through_blocks(x, run, training)[0]
        self._balance(at)
        return decoded

    def lay_out(self, is_training):
        """Sets the memory order of kernels to that of decoding steps, if they are not trained."""
        for layer in linears(self):
            layer.lay_out(is_training)

    def remember(self, encoded, encoder_padding_mask, is_shared=False):
        """`Memory` of the encoder's output (B, S, D), computed once an input.

        With `is_shared`, that is one tensor for all layers and not keys and values for each.
        """
        positions = encoder_positions(encoder_padding_mask)
        attentions = [block.memory_attention for block in self.blocks]
        if is_shared:
            encoded = ops.expand_dims(encoded, axis=1)
            of_layers = tuple(a.remember_shared(encoded) for a in attentions)
            return Memory((encoded,), of_layers, positions)
        of_layers = tuple(tuple(a.remember(encoded, positions)[:2]) for a in attentions)
        return Memory((), of_layers, positions)

    def step(self, x, positions, memory, past=None, slots=None, training=False):
        """The forward pass with keys and values kept, for prefill and for each new token.

        Args:
            x: (B, T, D) tensor of embedded tokens.
            positions: (B, T) int32 tensor; -1 hides a token.
            memory: what `remember` gave. Its batch may be B / R: then R rows in turn share one.
            past: per layer the `KeyValues` of earlier tokens, whose positions already hold those
                of `x`; or `None`: then `x` holds all.
            slots: per layer, the slot or slots of `past` that the tokens of `x` go into.

        Returns:
            The (B, T, D) output, and per layer the `KeyValues` of the own tokens.
        """
        at = Positions(positions, self.config.layers)

        def run(i, block, x):
            earlier = {} if past is None else {"past": past[i], "slot": slots[i]}
            return block(x, at=at, memory=memory.of_layer(i), **earlier, training=training)

        return self._through_blocks(x, run, training)

    def queries_and_keys(self, x, positions, memory):
        """What each layer compares: of embedded tokens (B, T, D), all there are.

        Args:
            x, positions, memory: as `step` has them; keys and values in every layer.

        Returns:
            Per layer (B, N, T, H) queries, the (B, K, T, H) keys of the own tokens, and a tuple: of
            the queries of the encoder's tokens, where these are others.
        """
        at = Positions(positions, self.config.layers)

        def run(i, block, x):
            seen = memory.of_layer(i)
            query, own = block.attention.project(block.attention_norm(x), at)
            x, _ = block.after_attention(x, at, seen)
            of_memory = ()
            if (cross := block.cross_attention) is not None:
                of_memory = (cross.queries(block.cross_attention_norm(x)),)
            return block.after_own_tokens(x, at, seen), (query, own.keys, of_memory)

        return self._through_blocks(x, run, training=False)[1]


def encoder_positions(padding_mask):
    """(B, S) int32: 0, 1, ... counting padding too, which is itself hidden as -1."""
    mask = ops.cast(padding_mask, "bool")
    return ops.where(mask, ops.arange(ops.shape(mask)[1], dtype="int32"), -1)


def decoder_positions(padding_mask):
    """(B, T) int32: 0 at each row's first token that is no padding, which is hidden as -1.

    Encoder keys carry no rotation, so the scores with them depend on the absolute position of a
    decoder token: left padding must not count.
    """
    mask = ops.cast(padding_mask, "bool")
    return ops.where(mask, ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, -1)
