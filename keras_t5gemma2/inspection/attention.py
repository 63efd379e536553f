"""Where the decoder looks: its attention, as numbers."""

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation import batching, calls, decoding, finite
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.model.stacks import decoder_positions
from keras_t5gemma2.sharding.batch import to_devices

# Weights that are computed at a time, of some tokens in one layer.
_BLOCK_BYTES = 64 << 20


class AttentionWeights(NamedTuple):
    """Where the decoder looks while it writes each token of a text.

    What `T5Gemma2Seq2SeqLM.attention` gives. In each layer and head, the weights of a token over
    `past` and over `encoder` come from one softmax: together they sum to 1. In T5Gemma 1, whose
    layers attend to the two apart, each sums to 1. A sliding layer gives 0 to what lies outside of
    its window.

    Attributes:
        tokens: list of T strings, the tokens that were written.
        past_tokens: list of P strings, what the decoder reads: its start token, its prompt and
            all written tokens but the last.
        encoder_tokens: list of S strings, those of images among them.
        past: (layers, heads, T, P) float32 weights of the decoder's own tokens.
        encoder: (layers, heads, T, S) float32 weights of the encoder's tokens.
        images: list of an array (layers, heads, T, rows, columns) for each image that the model
            reads: the weights in `encoder` of the parts of the image, from the top left on. With
            Pan and Scan, the crops of an image follow it.
        pictures: list of (height, width, 3) uint8 arrays, these images as the model sees them;
            `None` for one that was given as features.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> found = lm.attention("Spell 7 in German.", output="sieben")
    >>> found
    AttentionWeights(layers=3, heads=4, tokens=2, past=2, encoder=7, images=0)
    >>> found.tokens[-1], found.past_tokens[0]
    ('<eos>', '<bos>')
    >>> bool(np.allclose(found.past.sum(axis=-1) + found.encoder.sum(axis=-1), 1))
    True
    """

    tokens: list[str]
    past_tokens: list[str]
    encoder_tokens: list[str]
    past: np.ndarray
    encoder: np.ndarray
    images: list[np.ndarray]
    pictures: list[Any]

    def __repr__(self) -> str:
        (layers, heads, tokens, past), encoder = self.past.shape, self.encoder.shape[-1]
        return (
            f"{type(self).__name__}(layers={layers}, heads={heads}, tokens={tokens}, past={past}, "
            f"encoder={encoder}, images={len(self.images)})"
        )


def attention_of(lm, written):
    """The `AttentionWeights` of a `Written`.

    Raises:
        ValueError: weights are not finite.
    """
    rows, decoder_ids = written.rows, written.decoder_ids
    encoder_ids = np.asarray(rows.encoder_ids[0])[rows.encoder_masks[0]]
    past, encoder = _weights(lm, written)
    if not np.isfinite(encoder).all():
        what = f"The attention weights of row {written.number}"
        raise finite.error(what, lm.backbone.decoder.compute_dtype)
    images, pictures = _images(lm.backbone.config, rows, encoder_ids, encoder)
    tokens, past_tokens, encoder_tokens = (
        names_of(lm, ids) for ids in (written.token_ids, decoder_ids, encoder_ids)
    )
    return AttentionWeights(tokens, past_tokens, encoder_tokens, past, encoder, images, pictures)


def names_of(lm, ids):
    """The tokens of a vocabulary, a space as such; their numbers where there is no tokenizer."""
    if lm.preprocessor is None:
        return [str(id) for id in ids]
    tokenizer = lm.preprocessor.tokenizer
    return [tokenizer.id_to_token(int(id)).replace("▁", " ") for id in ids]


def _weights(lm, written):
    """Weights (layers, N, T, P) and (layers, N, T, S), computed for a block of tokens at a time."""
    generator, rows, count = lm.generator, written.rows, len(written.token_ids)
    call = calls.call_of(generator)
    seen_by = np.asarray(rows.encoder_masks[0], bool)
    encoder = batching.pad_encoder(rows)
    layers = lm.backbone.config.decoder.layers
    heads = max(layer.num_heads for layer in layers)
    size = _block_size(heads, len(written.decoder_ids), encoder["encoder_token_ids"].shape[1])
    arrays = {**encoder, **_padded(written.decoder_ids, size)}

    def compare(_, inputs):
        mask = inputs["decoder_padding_mask"]
        memory = decoding.remember(lm.backbone, inputs, "projected")
        x = lm.backbone.embed_decoder(inputs["decoder_token_ids"])
        positions = decoder_positions(mask)
        own = lm.backbone.decoder.queries_and_keys(x, positions, memory)
        return positions, own, memory.positions, [keys for keys, _ in memory.layers]

    run = program(generator, ("queries and keys",), lambda: compare, call)
    positions, own, seen, memory = run((), to_devices(arrays))
    length = len(written.decoder_ids)
    past = np.zeros((len(layers), heads, count, length), "float32")
    encoder = np.zeros((len(layers), heads, count, int(seen_by.sum())), "float32")
    for i, block in enumerate(lm.backbone.decoder.blocks):
        (query, keys, of_memory), attention = own[i], block.attention
        rule = size, attention.window, attention.scale, attention.config.soft_cap
        make = functools.partial(_of_block, *rule)
        run = program(generator, ("attention weights", *rule), make, call)
        for start in range((length - count) // size * size, length, size):
            place = ops.convert_to_tensor(start, "int32")
            found = run((), place, query, of_memory, positions, keys, memory[i], seen)
            of_past, of_encoder = (ops.convert_to_numpy(x)[0] for x in found)
            # Rows of the block, and of the result; of a prompt that stands before none.
            first = max(0, length - count - start)
            to = slice(start + first - (length - count), min(start + size, length) - length + count)
            there = slice(first, first + to.stop - to.start)
            past[i, : len(of_past), to] = of_past[:, there, :length]
            encoder[i, : len(of_past), to] = of_encoder[:, there, : len(seen_by)][..., seen_by]
    return past, encoder


def _of_block(size, window, scale, cap):
    """A function that gives the weights of `size` queries from `start` on."""

    def of_block(_, start, query, of_memory, positions, own, memory, seen):
        batch, heads, _, width = query.shape
        place, shape = (0, 0, start, 0), (batch, heads, size, width)
        query = ops.slice(query, place, shape)
        places = ops.slice(positions, (0, start), (batch, size))
        own, memory = KeyValues(own, None, positions), KeyValues(memory, None, seen)
        segments = [(own, window), (memory, Window())]
        if not of_memory:
            return kernels.attention_weights(query, places, segments, scale, cap)
        queries = [query, ops.slice(of_memory[0], place, shape)]
        return [
            kernels.attention_weights(x, places, [segment], scale, cap)[0]
            for x, segment in zip(queries, segments, strict=True)
        ]

    return of_block


def _block_size(heads, past, encoder):
    """Tokens of a block: a power of two."""
    most = max(1, _BLOCK_BYTES // (4 * heads * (past + encoder)))
    return 1 << min(most, batching.size_of(past, smallest=16)).bit_length() - 1


def _padded(ids, size):
    """The decoder's arrays of one row, padded at its end to whole blocks."""
    length = batching.size_of(len(ids), smallest=16)
    length += -length % size
    pad = (0, length - len(ids))
    return {
        "decoder_token_ids": np.pad(ids, pad)[None],
        "decoder_padding_mask": np.pad(np.ones_like(ids), pad)[None],
    }


def _images(config, rows, encoder_ids, weights):
    """Per image a view of `weights` (..., S) as (..., rows, columns), and its pixels or `None`."""
    if config.vision is None or not rows.seen:
        return [], []
    side = config.vision.tokens_per_side
    places = np.flatnonzero(encoder_ids == config.image_token_id)
    firsts = places[:: side * side]
    images = [
        weights[..., first : first + side * side].reshape(*weights.shape[:-1], side, side)
        for first in firsts
    ]
    pixels = rows.seen.get("images")
    if pixels is None:
        return images, [None] * len(images)
    levels = np.rint((pixels[0, : len(images)] + 1) * 127.5)
    return images, list(np.clip(levels, 0, 255).astype("uint8"))
