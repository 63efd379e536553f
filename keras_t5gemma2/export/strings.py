"""`generate` from strings to strings, for TensorFlow alone."""

import random

from keras import ops

from keras_t5gemma2.kernels.export import graph_text
from keras_t5gemma2.messages import shown
from keras_t5gemma2.vocabulary.sentencepiece_model import (
    ADDED_TYPES,
    SPACE,
    PieceType,
    read_sentencepiece_model,
)

_CHECKED = 4_000  # texts


def generate_of(task, functions, room):
    """Greedy `generate` of a task: the function, its signature, and its resources.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        functions: `Functions` for any rows and encoder length, and a prompt of one token.
        room: int. New tokens.

    Raises:
        ValueError: the task has no preprocessor, or a graph reads its vocabulary another way.
        ImportError: tensorflow-text is not installed.
    """
    preprocessor = task.preprocessor
    if preprocessor is None:
        raise ValueError(
            "`strings=True` needs a task with a preprocessor, whose tokenizer goes with the model. "
            "Received: preprocessor=None"
        )
    tokenizer = preprocessor.tokenizer
    text = text_graph(tokenizer, task.backbone.config.vocabulary_size)
    marker, hidden = tokenizer.start_of_image_token, tokenizer.special_token_ids
    markers = [] if tokenizer.start_of_image_token_id is None else [marker]
    limit = preprocessor.encoder_sequence_length

    def generate(texts):
        ids = text.encode(text.checked(texts, markers))
        ids, mask = text.padded(ids, tokenizer.start_token_id, tokenizer.pad_token_id, limit)
        memory = functions.encode({"encoder_token_ids": ids, "encoder_padding_mask": mask})
        start = ops.full_like(ids[:, 0], tokenizer.start_token_id)[:, None]
        new = _greedy(functions, memory, start, room, preprocessor.stop_token_ids, tokenizer)
        is_kept = ops.logical_not(_is_one_of(new, hidden))
        return {"outputs": text.decode(new, is_kept, preprocessor.end_of_text), "token_ids": new}

    return generate, graph_text.signature(), text.resources


def text_graph(tokenizer, size):
    """The `GraphText` of a tokenizer, that gave the same ids for thousands of texts.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        size: int. Ids that the model may write.

    Raises:
        ValueError: the vocabulary is no SentencePiece model, or ids were not the same.
    """
    vocabulary = tokenizer.loaded_vocabulary()
    if vocabulary.is_json:
        raise ValueError(
            "`strings=True` needs the vocabulary of a SentencePiece model, which a graph can run. "
            "Received: one of a `tokenizer.json`. Give the task a tokenizer of the "
            "`tokenizer.model` of the same vocabulary: `T5Gemma2Tokenizer(path)`"
        )
    model = read_sentencepiece_model(vocabulary.data)
    kinds = list(zip(model.pieces, model.types, strict=True))
    added = {piece: id for id, (piece, kind) in enumerate(kinds) if kind in ADDED_TYPES}
    texts = [_bytes_of(piece, kind) for piece, kind in kinds]
    text = graph_text.GraphText(vocabulary.data, added, texts + [b""] * (size - len(texts)))
    _check_equal(text, tokenizer, list(added))
    return text


def _bytes_of(piece, kind):
    if kind == PieceType.BYTE:
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()


def _greedy(functions, memory, start, room, stops, tokenizer):
    """The ids that are written, (rows, room) int32, padded behind the one that ends a row."""
    prompt = {"decoder_token_ids": start, "decoder_padding_mask": ops.ones_like(start)}
    state = functions.prefill({**prompt, **memory})
    tokens = ops.full((ops.shape(start)[0], room), tokenizer.pad_token_id, "int32")
    places = ops.arange(room, dtype="int32")

    def is_on(place, tokens, has_ended, state):
        return ops.logical_not(ops.all(has_ended))

    def write(place, tokens, has_ended, state):
        state = dict(state)
        token = ops.cast(ops.argmax(state.pop("logits"), axis=-1), "int32")
        is_here = ops.logical_and(places == place, ops.logical_not(has_ended)[:, None])
        tokens = ops.where(is_here, token[:, None], tokens)
        has_ended = ops.logical_or(has_ended, _is_one_of(token, stops))
        state = functions.step({"token_ids": token, **memory, **state})
        return place + 1, tokens, has_ended, state

    begin = (ops.zeros((), "int32"), tokens, ops.zeros_like(start[:, 0], dtype="bool"), state)
    return ops.while_loop(is_on, write, begin, maximum_iterations=room)[1]


def _is_one_of(ids, wanted):
    return ops.any(ids[..., None] == ops.convert_to_tensor(list(wanted), "int32"), axis=-1)


def _check_equal(text, tokenizer, added):
    """Raises where the graph gives other ids than the tokenizer, on texts of its own pieces."""
    draw, pieces = random.Random(0), tokenizer.get_vocabulary()
    texts = ["", " ", *added]
    while len(texts) < _CHECKED:
        kinds = draw.choices((pieces, added, [chr(draw.randrange(0x20, 0xD7FF)), " "]), k=8)
        texts.append("".join(draw.choice(kind) for kind in kinds).replace(SPACE, " "))
    texts = texts[:_CHECKED]
    for one, ours, found in zip(
        texts, tokenizer.tokenize(texts), text.encode(texts).to_list(), strict=True
    ):
        if ours != found:
            raise ValueError(
                "`strings=True` needs a vocabulary that tensorflow-text reads as the tokenizer "
                f"does. Received: one of which {shown(one)} has the ids {shown(ours)} and "
                f"{shown(found)}. Export without `strings`, and make the ids outside of the graph"
            )
