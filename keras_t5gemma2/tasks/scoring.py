"""How likely a task finds given targets, or given next tokens, without the logits of all tokens."""

import functools
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching, calls, decoding, finite
from keras_t5gemma2.generation import inputs as inputs_of
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.generation.encoded import check_count, check_encoded
from keras_t5gemma2.generation.label_scores import log_sums, scores_of_labels
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked, integer
from keras_t5gemma2.preprocessing.cuts import one_warning
from keras_t5gemma2.sharding.batch import of_rows, row_parts, to_devices


class TokenScores(NamedTuple):
    """What `T5Gemma2Seq2SeqLM.score_tokens` gives of k tokens.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> logits, probabilities = lm.score_tokens("Spell 7 in Dutch.", ["7", "3"])
    >>> logits.shape, round(float(probabilities.sum()), 3)
    ((2,), 1.0)
    """

    logits: np.ndarray  # (rows, k) float32; (k,) of a single row
    probabilities: np.ndarray  # the same, among the k tokens or over the vocabulary


# Targets ---------------------------------------------------------------------------------------


def score_labels(lm, x, labels, weights):
    """The log-probability of each label, times its weight, and whether it is the first choice.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        x: dict of arrays as the backbone takes them.
        labels: (rows, length) ints.
        weights: (rows, length) floats. What has the weight 0 is not looked at.

    Returns:
        For each row a float32 array of its labels that have a weight, and a bool array of them.

    Raises:
        ValueError: the logits of a row are not finite.
    """
    hidden = of_rows(functools.partial(_hidden, lm), lm.backbone.complete(x))
    rows, columns = np.nonzero(weights > 0)
    labels = np.asarray(labels)[rows, columns].astype("int32")
    chosen = ops.convert_to_tensor((rows * weights.shape[1] + columns).astype("int32"))
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
    of_labels, greedy = scores_of_labels(lm.generator, hidden, chosen, labels)
    scores = of_labels * weights[rows, columns].astype("float32")
    ends = np.cumsum(np.count_nonzero(weights > 0, axis=1))[:-1]
    scores, greedy = np.split(scores, ends), np.split(greedy, ends)
    for row, of_row in enumerate(scores):
        if not np.isfinite(of_row.sum()):
            raise finite.error(f"The logits of row {row}", lm.backbone.decoder.compute_dtype)
    return scores, greedy


def without_end(lm, labels, weights):
    """`weights` with 0 for the end token of each row.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        labels, weights: (rows, length) arrays.

    Raises:
        ValueError: nothing says which token is the end token.
    """
    if lm.preprocessor is None:
        raise ValueError(
            "`end_token=False` needs a preprocessor: its tokenizer knows the end token. Received: "
            "preprocessor=None. Give the end token the weight 0 instead"
        )
    weights = np.array(weights)
    for row, of_row in enumerate(weights):
        last = np.flatnonzero(of_row > 0)[-1:]
        if last.size and labels[row, last[0]] == lm.preprocessor.tokenizer.end_token_id:
            weights[row, last] = 0
    return weights


def _hidden(lm, x):
    def hidden(_, inputs):
        return lm.backbone(inputs, training=False)["decoder_sequence_output"]

    call = calls.call_of(lm.generator)
    inputs = {name: value for name, value in x.items() if value is not None}
    return program(lm.generator, ("hidden states",), lambda: hidden, call)((), to_devices(inputs))


# Next tokens -----------------------------------------------------------------------------------


def score_tokens(lm, inputs, tokens, encoded, over_vocabulary, batch_size, options):
    """See `T5Gemma2Seq2SeqLM.score_tokens`; `options` are the cache, columns and verbose."""
    cross_attention_cache, columns, verbose = options
    batch_size = checked(batch_size=batch_size)
    ids = ops.convert_to_tensor(np.array(_ids_of(lm, tokens), "int32"))
    generator = lm.generator
    call = calls.call_of(generator, cross_attention_cache, verbose)
    if encoded is not None:
        check_encoded(encoded, generator, call, cross_attention_cache)
    inputs, is_single = inputs_of.read(lm, inputs, columns)
    parts = row_parts()
    batches, is_single = inputs_of.batches_of(lm, inputs, is_single, encoded, batch_size, parts)
    found = {}
    with one_warning():
        for numbers, part in batches:
            rows = inputs_of.rows_of(lm, part, encoded)[0]
            scores = _scores_of_rows(lm, rows, ids, encoded, over_vocabulary, call)
            found |= zip(numbers, zip(*scores, strict=True), strict=True)
    logits, probabilities = (np.stack(x) for x in zip(*map(found.get, sorted(found)), strict=True))
    for row in np.flatnonzero(~np.isfinite(logits.sum(axis=1) + probabilities.sum(axis=1))):
        raise finite.error(f"The logits of row {row}", generator.dtype)
    return TokenScores(*((logits[0], probabilities[0]) if is_single else (logits, probabilities)))


def _scores_of_rows(lm, rows, ids, encoded, over_vocabulary, call):
    """(rows, k) logits and probabilities of `batching.Rows`."""
    arrays = batching.pad_prompts(rows, new_tokens=1)
    if encoded is None:
        inputs = to_devices({**batching.pad_encoder(rows), **arrays})
    else:
        check_count(encoded, len(rows.prompts))
        inputs = {**to_devices(arrays), "memory": encoded.memory}

    def read(_, inputs, ids):
        backbone, memory = lm.backbone, inputs.get("memory")
        if memory is None:
            memory = decoding.remember(backbone, inputs, *call.cache)
        cache, _ = decoding.prefill(backbone, inputs, memory, cache_dtype=call.cache_dtype)
        prompt = inputs["decoder_token_ids"]
        hidden, _ = decoding.step(backbone, memory, prompt, cache, prompt.shape[1])
        return hidden, backbone.token_embedding.logits_of(hidden, ids)

    make = program(lm.generator, ("scores of tokens",), lambda: read, call)
    hidden, logits = make((), inputs, ids)
    logits = ops.convert_to_numpy(logits)
    if over_vocabulary:
        chosen = ops.arange(len(rows.prompts), dtype="int32")
        normalizers = log_sums(lm.generator, hidden, chosen, call)
        return logits, np.exp(logits - normalizers[:, None])
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits, shares / shares.sum(axis=1, keepdims=True)


def _ids_of(lm, tokens):
    if isinstance(tokens, (str, bytes, dict)) or not len(tokens):
        raise TypeError(
            "`tokens` must be a list of at least one token, strings or ids. Received: "
            f"tokens={shown(tokens)}"
        )
    return [_id_of(lm, token) for token in tokens]


def _id_of(lm, token):
    size = lm.backbone.config.vocabulary_size
    if not isinstance(token, str):
        id = integer(token)
        if id is None or not 0 <= id < size:
            raise ValueError(
                f"An id in `tokens` must be an integer from 0 to {size - 1}. Received: "
                f"{shown(token)}"
            )
        return id
    if lm.preprocessor is None:
        raise ValueError(
            "Strings in `tokens` need a preprocessor, whose tokenizer knows their ids. Received: "
            f"preprocessor=None, and {shown(token)}. Give ids"
        )
    ids = lm.preprocessor.tokenizer(token)
    if len(ids) != 1:
        pieces = [lm.preprocessor.tokenizer.id_to_token(id) for id in ids]
        raise ValueError(
            "A string in `tokens` must be one token of the vocabulary. Received: "
            f"{shown(token)}, which is {len(ids)} tokens: {shown(pieces)}. Give its first one, "
            "choose another word, or compare whole texts with `score`"
        )
    return ids[0]
