"""What a model holds beside its weights while it works."""

import math

from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation import decoding, screening
from keras_t5gemma2.generation.batching import size_of
from keras_t5gemma2.kernels import CHUNK_BYTES, FEW_QUERIES
from keras_t5gemma2.kernels.attention.blocked import KEYS, QUERIES
from keras_t5gemma2.model.mlp import TOKENS_AT_A_TIME
from keras_t5gemma2.planning.work import FLOAT32, INT32, compute_size, divides


def of_cache(config, work):
    decoder, size = config.decoder, compute_size(work)
    length = size_of(work.encoder_length, smallest=64)
    rows = work.rows
    is_shared = decoding.is_shared(
        work.cross_attention_cache, decoder, work.batch_size, length, size
    )
    positions = rows * length * INT32
    heads = [math.ceil(a.num_kv_heads / divides(a.num_kv_heads, work)) for a in decoder.layers]
    widths = [n * a.head_dim for n, a in zip(heads, decoder.layers, strict=True)]
    if is_shared:
        seen = rows * length * config.hidden_dim * size
        seen += sum(rows * n * length * FLOAT32 for n in heads)
        seen += sum(2 * width * config.hidden_dim * size for width in widths)
    else:
        seen = sum(2 * width * rows * length * size for width in widths)
    counts = caches.slot_counts(decoder, 1 + size_of(work.decoder_length, smallest=32))
    own = sum(2 * width * rows * n * size for width, n in zip(widths, counts, strict=True))
    return seen + positions + own + rows * sum(set(counts)) * INT32


def of_head(config, work):
    """A byte for each number of the table, and three float32 numbers for each row."""
    dtypes = {work.policy.compute_dtype, work.policy.variable_dtype}
    is_spread = work.fsdp or work.mesh != (1, 1)
    if is_spread or len(dtypes) != 1 or not dtypes <= set(screening.DTYPES):
        return 0
    if work.head == "exact" or config.final_logit_soft_cap is not None:
        return 0
    room = size_of(work.decoder_length, smallest=32)
    numbers = config.vocabulary_size * config.decoder.hidden_dim
    is_worthwhile = screening.is_worthwhile(*dtypes, numbers, work.rows, room)
    if work.rows > FEW_QUERIES or (work.head == "auto" and not is_worthwhile):
        return 0
    return numbers + 3 * config.vocabulary_size * FLOAT32


def of_inference(config, work):
    encoder_length = size_of(work.encoder_length, smallest=64)
    return max(
        _of_images(config, work),
        _forward_of_layer(config.encoder, work, work.rows * encoder_length, encoder_length),
        # The logits of a step, and what the sampler makes of them.
        3 * work.rows * config.vocabulary_size * FLOAT32,
    )


def of_training(config, work):
    size = compute_size(work)
    read, written = (work.rows * length for length in (work.encoder_length, work.decoder_length))
    stacks = [(config.encoder, read), (config.decoder, written)]
    of_layers = [
        _kept_of_layer(stack, attention, work, tokens) + _kept_of_cross(stack, attention, work)
        for stack, tokens in stacks
        for attention in stack.layers
    ]
    if work.gradient_checkpointing:
        kept = sum(len(stack.layers) * tokens * stack.hidden_dim for stack, tokens in stacks)
        kept = kept * size + max(of_layers)
    else:
        kept = sum(of_layers)
    scores = _of_scores(config.encoder, work, work.encoder_length)
    return max(_of_images(config, work), kept + scores + _of_loss(config, work, written))


def _kept_of_layer(stack, attention, work, tokens):
    """What the gradient of a layer needs. Measured, not counted: XLA keeps some of it twice."""
    heads = attention.num_heads * attention.head_dim / divides(attention.num_heads, work)
    own = attention.num_kv_heads * attention.head_dim / divides(attention.num_kv_heads, work)
    wide = stack.mlp_dim / divides(stack.mlp_dim, work)
    numbers = tokens * (7.3 * stack.hidden_dim + 5.2 * heads + 1.3 * own + 3.1 * wide)
    return math.ceil(numbers * compute_size(work))


def _kept_of_cross(stack, attention, work):
    """What the gradient of a decoder's attention to the encoder needs, where it is one of its own.

    Counted as its part of what was measured of a layer's attention.
    """
    if stack.cross_attention_dim is None:
        return 0
    read, written = (work.rows * length for length in (work.encoder_length, work.decoder_length))
    heads = attention.num_heads * attention.head_dim / divides(attention.num_heads, work)
    own = attention.num_kv_heads * attention.head_dim / divides(attention.num_kv_heads, work)
    numbers = written * (3 * stack.hidden_dim + 5.2 * heads) + read * 1.3 * own
    return math.ceil(numbers * compute_size(work))


def _forward_of_layer(stack, work, tokens, length):
    """What a layer computes at its widest place: the MLP, or tiles of scores. Measured, too."""
    size, attention = compute_size(work), stack.layers[0]
    wide = stack.mlp_dim / divides(stack.mlp_dim, work)
    at_once = tokens if length % TOKENS_AT_A_TIME else tokens * TOKENS_AT_A_TIME / length
    of_mlp = (6 * tokens * stack.hidden_dim + 5.5 * min(at_once, tokens) * wide) * size
    heads = attention.num_heads / divides(attention.num_heads, work)
    numbers = tokens * (3 * stack.hidden_dim + 5 * heads * attention.head_dim)
    return math.ceil(max(of_mlp, numbers * size + _of_scores(stack, work, length)))


def _of_scores(stack, work, length):
    """Two tiles of the scores of all heads, in float32."""
    heads = stack.layers[0].num_heads
    heads /= divides(heads, work)
    return 2 * work.rows * heads * min(QUERIES, length) * min(KEYS, length) * FLOAT32


def _of_loss(config, work, tokens):
    """The logits of a chunk and their slopes, and the float32 gradient of the table."""
    vocabulary = config.vocabulary_size / divides(config.vocabulary_size, work)
    chunk = min(tokens, max(1, CHUNK_BYTES // (FLOAT32 * config.vocabulary_size)))
    of_logits = 2 * chunk * vocabulary * FLOAT32
    of_table = vocabulary * config.decoder.hidden_dim * FLOAT32 if work.mode == "fit" else 0
    return math.ceil(of_logits + of_table)


def _of_images(config, work):
    """A layer of the vision tower, all images of a batch at once."""
    vision, count = config.vision, work.rows * work.images
    if not count:
        return 0
    patches = count * vision.patches_per_side**2
    numbers = max(3 * vision.hidden_dim + 2 * vision.mlp_dim, 7 * vision.hidden_dim)
    pixels = count * vision.image_size**2 * 3 * FLOAT32
    return patches * numbers * compute_size(work) + pixels
