"""The device's side of generation: from a batch of prompts to a cache, and a token further."""

import copy

from keras import ops

from keras_t5gemma2 import cache as caches
from keras_t5gemma2.cache import Cache
from keras_t5gemma2.stacks import decoder_positions


def prefill(backbone, inputs, keep_states=False):
    """The cache before the last token of each prompt, which the first `step` reads.

    Args:
        backbone: `T5Gemma2Backbone`.
        inputs: dict of the tensors that `generation.pad_rows` makes.
        keep_states: bool. Whether the prompt's hidden states are wanted, its last one included.

    Returns:
        A `Cache`, and `None` or hidden states (B, prompt and room, D), 0 where there is no token.
    """
    decoder = backbone.decoder
    mask = inputs["encoder_padding_mask"]
    seen = inputs.get("images"), inputs.get("image_features")
    memory = decoder.remember(backbone.encode(inputs["encoder_token_ids"], mask, *seen), mask)

    token_ids, mask = inputs["decoder_token_ids"], inputs["decoder_padding_mask"]
    batch_size, prompt_length = token_ids.shape
    length = prompt_length + inputs["new_token_ids"].shape[1]
    counts = caches.slot_counts(decoder.config, length)
    padding = prompt_length - ops.sum(ops.cast(mask, "int32"), axis=1)

    known = prompt_length if keep_states else prompt_length - 1
    if known == 0:
        attentions = zip(decoder.config.layers, counts, strict=True)
        past = [caches.empty(a, batch_size, n, decoder.compute_dtype) for a, n in attentions]
        return Cache(tuple(past), memory, padding), None
    x = backbone.embedder(token_ids[:, :known])
    hidden, own = decoder.step(x, decoder_positions(mask)[:, :known], memory)
    past = tuple(caches.pack(*pair) for pair in zip(own, counts, strict=True))
    if not keep_states:
        return Cache(past, memory, padding), None
    # Nothing may be similar to padding: it gets a state that is there anyway.
    is_token = ops.expand_dims(ops.cast(mask, "bool"), -1)
    hidden = ops.where(is_token, hidden, hidden[:, -1:])
    return Cache(past, memory, padding), ops.pad(hidden, [(0, 0), (0, length - known), (0, 0)])


def step(backbone, prompt, cache, index):
    """Reads the token in slot `index - 1` of `prompt`.

    Args:
        backbone: `T5Gemma2Backbone`.
        prompt: (B, length) int32 tensor.
        cache: `Cache` of the tokens before.
        index: int32 scalar tensor, or int.

    Returns:
        The hidden states (B, D) from which token `index` is predicted, and the `Cache` after it.
    """
    last = index - 1
    token_ids = ops.slice(prompt, [0, last], [prompt.shape[0], 1])
    hidden, past = backbone.decoder.step(
        backbone.embedder(token_ids),
        ops.expand_dims(last - cache.padding, axis=1),
        cache.memory,
        cache.past,
        slots=[last % past.positions.shape[1] for past in cache.past],
    )
    return hidden[:, 0], cache._replace(past=past)


def bounded(sampler, steps):
    """`sampler`, whose loop ends after `steps` tokens, though there may be room for more.

    Args:
        sampler: `keras_hub.samplers.Sampler`.
        steps: int32 scalar tensor: one program serves every number of tokens.
    """
    if not hasattr(sampler, "run_loop"):
        return sampler
    bounded = copy.copy(sampler)

    def run_loop(cond, body, model=None, loop_vars=None, maximum_iterations=None):
        limit = ops.minimum(maximum_iterations, steps)
        return sampler.run_loop(cond, body, model, loop_vars, limit)

    bounded.run_loop = run_loop
    return bounded
