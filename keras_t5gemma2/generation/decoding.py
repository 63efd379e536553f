"""The device's side of generation: from a batch of prompts to a cache, and a token further."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.compat.plain_call import plain_calls
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation.cache import Cache
from keras_t5gemma2.kernels import KeyValues
from keras_t5gemma2.model.residual import sum_dtype
from keras_t5gemma2.model.stacks import decoder_positions

# Keys and values of the encoder's tokens of all layers. A step reads 2.5 (270m and 4b) to 4.5
# (1b) times as many bytes where the layers share one tensor, so it is for inputs whose keys and
# values crowd out everything else.
_MAX_PROJECTED_BYTES = 2 << 30


def remember(backbone, inputs, kind="auto", cache_dtype="auto"):
    """The `attention.Memory` of the encoder's input.

    Args:
        backbone: `T5Gemma2Backbone`.
        inputs: dict of the tensors that `batching.pad_rows` makes.
        kind: "projected" for keys and values in every layer, "shared" for one tensor that all
            layers read, or "auto": shared where the keys and values would be too large.
        cache_dtype: "int8" for `Scaled` numbers, or "auto".
    """
    mask = inputs["encoder_padding_mask"]
    seen = inputs.get("images"), inputs.get("image_features")
    encoded = backbone.encode(inputs["encoder_token_ids"], mask, *seen)
    dtype = "int8" if cache_dtype == "int8" else keras.backend.standardize_dtype(encoded.dtype)
    rows, length, _ = encoded.shape
    shared = is_shared(kind, backbone.config.decoder, rows, length, np.dtype(dtype).itemsize)
    memory = backbone.decoder.remember(encoded, mask, shared)
    return caches.memory_in_int8(memory) if cache_dtype == "int8" else memory


def is_shared(kind, config, rows, length, itemsize):
    """Whether all layers of a decoder share one tensor, of so many rows of so many tokens.

    Args:
        kind: as `remember` has it.
        config: `StackConfig` of the decoder.
        rows, length: int.
        itemsize: int. Bytes of a number.
    """
    if kind != "auto":
        return kind == "shared"
    widths = [2 * attention.num_kv_heads * attention.head_dim for attention in config.layers]
    return rows * length * sum(widths) * itemsize > _MAX_PROJECTED_BYTES


def prefill(backbone, inputs, memory, keep_states=False, ahead=0, cache_dtype="auto"):
    """The cache before the last token of each prompt, which the first `step` reads.

    Args:
        backbone: `T5Gemma2Backbone`.
        inputs: dict of the tensors that `batching.pad_rows` makes.
        memory: what `remember` gave.
        keep_states: bool. Whether the prompt's hidden states are wanted, its last one included.
        ahead: int. Of the tokens of a later `read`, those that may prove wrong.
        cache_dtype: as `remember` has it.

    Returns:
        A `Cache`, and `None` or hidden states (B, prompt and room, D), 0 where there is no token.
    """
    decoder = backbone.decoder
    token_ids, mask = inputs["decoder_token_ids"], inputs["decoder_padding_mask"]
    batch_size, prompt_length = ops.shape(token_ids)
    length = prompt_length + inputs["new_token_ids"].shape[1]
    counts = caches.slot_counts(decoder.config, length, ahead)
    padding = prompt_length - ops.sum(ops.cast(mask, "int32"), axis=1)

    known = prompt_length if keep_states else prompt_length - 1
    if known == 0:
        attentions = zip(decoder.config.layers, counts, strict=True)
        dtype = decoder.compute_dtype if cache_dtype == "auto" else cache_dtype
        past = [caches.empty(a, batch_size, n, dtype) for a, n in attentions]
        positions = {n: ops.full((batch_size, n), -1, dtype="int32") for n in counts}
        return Cache(tuple(past), positions, padding), None
    x = backbone.embed_decoder(token_ids[:, :known])
    hidden, own = decoder.step(x, decoder_positions(mask)[:, :known], memory)
    if cache_dtype == "int8":
        own = map(caches.in_int8, own)
    slots = [caches.pack(*pair) for pair in zip(own, counts, strict=True)]
    past = tuple((keys, values) for keys, values, _ in slots)
    cache = Cache(past, {n: kv.positions for n, kv in zip(counts, slots, strict=True)}, padding)
    if not keep_states:
        return cache, None
    # Nothing may be similar to padding: it gets a state that is there anyway.
    is_token = ops.expand_dims(ops.cast(mask, "bool"), -1)
    hidden = ops.where(is_token, hidden, hidden[:, -1:])
    hidden = ops.cast(hidden, sum_dtype(decoder.compute_dtype))  # as `compiled_steps.step_of`
    return cache, ops.pad(hidden, [(0, 0), (0, length - known), (0, 0)])


def step(backbone, memory, prompt, cache, index):
    """Reads the token in slot `index - 1` of `prompt`.

    Args:
        backbone: `T5Gemma2Backbone`.
        memory: what `remember` gave; R rows of `prompt` in turn may share one of its rows.
        prompt: (B, length) int32 tensor.
        cache: `Cache` of the tokens before.
        index: int32 scalar tensor, or int.

    Returns:
        The hidden states (B, D) from which token `index` is predicted, and the `Cache` after it.
    """
    last = ops.convert_to_tensor(index - 1, dtype="int32")
    token_ids = ops.take(prompt, ops.expand_dims(last, axis=0), axis=1)
    hidden, cache = read(backbone, memory, token_ids, cache, last)
    return hidden[:, 0], cache


def read(backbone, memory, token_ids, cache, first):
    """Reads a few tokens at once, each of which sees those before it.

    Args:
        backbone: `T5Gemma2Backbone`.
        memory: what `remember` gave.
        token_ids: (B, T) int32 tensor. T - 1 is at most the `ahead` of the cache.
        cache: `Cache` of the tokens before. It may hold tokens from `first` on, which are gone.
        first: int32 scalar tensor, the slot of the first token.

    Returns:
        The hidden states (B, T, D), and the `Cache` after the last token.
    """
    offsets = ops.arange(token_ids.shape[1], dtype="int32")
    here = ops.expand_dims(first - cache.padding, axis=1) + offsets
    positions, slots = caches.written(cache, first, here)
    past = [KeyValues(k, v, positions[k.shape[2]]) for k, v in cache.past]
    with plain_calls():
        x = backbone.embed_decoder(token_ids)
        hidden, past = backbone.decoder.step(x, here, memory, past, slots)
    past = tuple((keys, values) for keys, values, _ in past)
    return hidden, Cache(past, positions, cache.padding)
