"""The blocks of both stacks as a chain of layers from one tensor to one, for GPTQ and AWQ.

Keras's calibration runs a text through a list of layers, and watches the dense layers in one after
another. Here the first half of a text is the encoder's and the second the decoder's, which
continues it: a tensor (1, length, D) holds the states of both, zeros behind those of the narrower
stack, and each layer of the chain changes one half.
"""

import contextlib
import functools

import numpy as np
from keras import layers, ops

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.model.rotary import Positions
from keras_t5gemma2.model.stacks import decoder_positions, encoder_positions


def layer_structure(backbone):
    """What `get_quantization_layer_structure` of a backbone gives.

    Args:
        backbone: `T5Gemma2Backbone`.
    """
    rows = [(_encode, block) for block in backbone.encoder.blocks]
    if backbone.decoder is not None:
        rows += [(_decode, block) for block in backbone.decoder.blocks]
    chain = [_Link(block, functools.partial(run, backbone, block)) for run, block in rows]
    return {"pre_block_layers": [_Embedding(backbone)], "sequential_blocks": chain}


@contextlib.contextmanager
def exact_updates(config):
    """Inside, what Keras's GPTQ does with the error of a column is what the paper says.

    After each column the inverse of the Hessian is that of the columns which are left; its rows
    are those of the Cholesky factor of the whole inverse (arXiv 2210.17323, section 3.3). Keras
    3.15 goes by the rows of the whole inverse itself: where inputs are correlated, the outputs are
    then no nearer than those of plain rounding, and by the factor's rows twice as near.
    With `activation_order`, Keras sorts the rows afterwards, and they stay as Keras has them.

    Args:
        config: `keras.quantizers` config of GPTQ or AWQ; only the former has columns in order.
    """
    if config.mode != "gptq" or config.activation_order:
        yield
        return
    with compat.gptq_inverting_by(_factor_of_inverse):
        yield


def _factor_of_inverse(matrix):
    """Upper triangular U, where U' U is the inverse of a positive definite matrix."""
    inverse = np.linalg.inv(ops.convert_to_numpy(matrix).astype("float64"))
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return ops.convert_to_tensor(factor.astype("float32"))


class _Embedding(layers.Layer):
    """The states of a text's ids: its first half embedded for the encoder, its second decoder's."""

    def __init__(self, backbone):
        super().__init__(dtype=backbone.embedder.dtype_policy)
        self.backbone = backbone
        self.built = True

    def call(self, ids):
        if self.backbone.decoder is None:
            return self.backbone.embedder(ids)
        length = ids.shape[1] // 2
        halves = (
            self.backbone.embedder(ids[:, :length]),
            self.backbone.embed_decoder(ids[:, length:]),
        )
        return _joined(*halves)


class _Link(layers.Layer):
    """A block of a stack, and what is to be done with it."""

    def __init__(self, block, run):
        super().__init__(dtype=block.dtype_policy)
        self.block, self.run = block, run
        self.built = True

    def call(self, states):
        return (self.run(states),)


def _encode(backbone, block, states):
    """The states after one block of the encoder; after its last, the last norm too."""
    encoded, decoded, mask = _halves(backbone, states)
    encoder = backbone.encoder
    encoded, _ = block(encoded, at=Positions(encoder_positions(mask[0]), encoder.config.layers))
    if block is encoder.blocks[-1]:
        encoded = encoder.norm(encoded)
    return _joined(encoded, decoded)


def _decode(backbone, block, states):
    encoded, decoded, mask = _halves(backbone, states)
    decoder = backbone.decoder
    memory = block.memory_attention.remember(encoded, encoder_positions(mask[0]))
    at = Positions(decoder_positions(mask[1]), decoder.config.layers)
    decoded, _ = block(decoded, at=at, memory=memory)
    return _joined(encoded, decoded)


def _halves(backbone, states):
    """The states of the encoder and of the decoder, and a mask for each, of tokens only."""
    config, length = backbone.config, states.shape[1] // 2
    encoder, decoder = (stack or config.encoder for stack in (config.encoder, config.decoder))
    halves = states[:, :length, : encoder.hidden_dim], states[:, length:, : decoder.hidden_dim]
    return *halves, [ops.ones(half.shape[:2], "int32") for half in halves]


def _joined(encoded, decoded):
    """The states of both in one tensor."""
    width = max(encoded.shape[-1], decoded.shape[-1])
    wide = [
        ops.pad(half, [(0, 0), (0, 0), (0, width - half.shape[-1])]) for half in (encoded, decoded)
    ]
    return ops.concatenate(wide, axis=1)
