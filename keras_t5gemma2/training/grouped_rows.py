"""The forward pass of several targets for each input, which is encoded once."""

import contextlib
import contextvars

from keras import ops

_is_grouped = contextvars.ContextVar("grouped", default=False)


@contextlib.contextmanager
def grouped():
    """Inside, also while a step is traced, each row of the encoder has several of the decoder."""
    token = _is_grouped.set(True)
    try:
        yield
    finally:
        _is_grouped.reset(token)


def is_grouped():
    """Whether rows of the encoder have several of the decoder now."""
    return _is_grouped.get()


def hidden_of_groups(backbone, inputs, training):
    """The decoder's output (rows * R, T, D), of which R rows in turn are of one encoded input.

    Args:
        backbone: `T5Gemma2Backbone`.
        inputs: dict of tensors as it takes them, the encoder's of (rows, ...).
        training: bool.
    """
    ids, mask = inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
    x = backbone.embedder(ids)
    if backbone.vision is not None:
        x = backbone.vision(x, ids, inputs.get("images"), inputs.get("image_features"))
    encoded = backbone.encoder(x, mask, training=training)
    own = inputs["decoder_token_ids"]
    times = ops.shape(own)[0] // ops.shape(ids)[0]
    encoded, mask = _repeated(encoded, times), _repeated(mask, times)
    own_mask = inputs["decoder_padding_mask"]
    return backbone.decoder(backbone.embed_decoder(own), own_mask, encoded, mask, training=training)


def _repeated(x, times):
    """Each row of (rows, ...) so many times in turn; `times` may be a tensor of TensorFlow's."""
    shape = ops.shape(x)
    wide = ops.broadcast_to(ops.expand_dims(x, 1), (shape[0], times, *shape[1:]))
    return ops.reshape(wide, (shape[0] * times, *shape[1:]))
