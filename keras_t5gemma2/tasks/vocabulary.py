"""A task with another vocabulary: fewer tokens for a job, or some more."""

import functools
import itertools
import string

import numpy as np

from keras_t5gemma2.adapters import files as adapter_files
from keras_t5gemma2.messages import shown, shown_names, warn
from keras_t5gemma2.model.resizing import rows_of_table, tables_of, with_rows
from keras_t5gemma2.options import integer
from keras_t5gemma2.preprocessing.image_prompts import place_images
from keras_t5gemma2.preprocessing.token_counts import language_counts, texts_in, token_counts
from keras_t5gemma2.tasks.pruning import Pruning, losses_of
from keras_t5gemma2.vocabulary.derivations import chosen
from keras_t5gemma2.vocabulary.resized import (
    ids_of_post_processor,
    with_more_tokens,
    with_tokens,
)
from keras_t5gemma2.vocabulary.sentinels import FIRST_SENTINEL, sentinels
from keras_t5gemma2.vocabulary.special_tokens import (
    IMAGE_TOKENS,
    MASK_TOKEN,
    REQUIRED_TOKENS,
    TURN_TOKENS,
)

_SPECIAL = (*REQUIRED_TOKENS.values(), *IMAGE_TOKENS.values(), *TURN_TOKENS.values(), MASK_TOKEN)
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_MOST_SENTINELS = 100  # as the gaps of T5
# What text of any language is written with beside its words.
_CHARACTERS = string.printable + "¡¿«»‹›„“”‚‘’–—…•°§№€£¥₹、。，：；！？「」『』（）《》・،؛؟।॥"
# The wording around images and turns, which the package writes itself.
_TURNS = "user\nmodel\n"
# What a chat template of a checkpoint's own writes its wording around.
_DIALOGUE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
# Products of few rows and a table are quickest where its rows divide into so many parts.
_MULTIPLE, _LARGE = 8, 4096


def prune(lm, texts, languages, keep, size, held_out, columns):
    """See `T5Gemma2Task.prune_vocabulary`."""
    tokenizer = _tokenizer_of(lm, "prune_vocabulary")
    vocabulary = tokenizer.loaded_vocabulary()
    if texts is None and languages is None and keep is None:
        raise ValueError(
            "One of `texts`, `languages` and `keep` must say which tokens are kept. Received: "
            "texts=None, languages=None, keep=None"
        )
    size = _checked_size(size)
    needed = _needed(lm.preprocessor, vocabulary) | set(_checked_ids(keep, vocabulary))
    read = functools.partial(texts_in, columns=columns, preprocessor=lm.preprocessor)
    counts = token_counts(vocabulary, [] if texts is None else read(texts))
    if languages is not None:
        # Shares, all forms of a language together 4: what the texts use counts more.
        counts += language_counts(vocabulary, languages)
    if texts is not None or languages is not None:
        ids = map(vocabulary.token_to_id, _CHARACTERS.replace(" ", "▁"))
        needed |= {id for id in ids if id is not None}
    multiple = _MULTIPLE if len(vocabulary) > _LARGE else 1
    kept = chosen(vocabulary, needed, counts, size, multiple)
    data = with_tokens(vocabulary, kept)
    small = _with_vocabulary(lm, data, np.array(kept, "int32"))
    losses = None
    if held_out is not None:
        of_small = small.preprocessor.tokenizer.loaded_vocabulary()
        losses = losses_of(vocabulary, of_small, kept, read(held_out))
    small.pruning = Pruning(
        np.array(kept, "int32"),
        lm.backbone.config.vocabulary_size,
        len(kept),
        lm.count_params(),
        small.count_params(),
        losses,
    )
    return small


def extend(lm, tokens, init):
    """See `T5Gemma2Task.extend_vocabulary`."""
    vocabulary = _tokenizer_of(lm, "extend_vocabulary").loaded_vocabulary()
    tokens = tokens if isinstance(tokens, (str, bytes)) else list(tokens)
    data = with_more_tokens(vocabulary, tokens)
    tables = tables_of(lm.backbone)
    if isinstance(init, str) and init == "mean":
        pieces = vocabulary.encode(tokens)
        rows = [np.stack([_mean_of_pieces(table, ids) for ids in pieces]) for table in tables]
    else:
        given = init if len(tables) > 1 and isinstance(init, (tuple, list)) else [init]
        shapes = [(len(tokens), width) for width in _widths(lm.backbone.config)]
        if len(given) != len(shapes):
            raise ValueError(
                "`init` of a model with two tables must be a pair of arrays, the encoder's and the "
                f"decoder's, of shapes {shapes}. Received: init={shown(init)}"
            )
        rows = [_checked_rows(*pair) for pair in zip(given, shapes, strict=True)]
    rows = rows[0] if len(tables) == 1 else rows
    return _with_vocabulary(lm, data, np.arange(len(vocabulary), dtype="int32"), rows)


def _needed(preprocessor, vocabulary):
    """The ids that every job needs."""
    tokenizer = preprocessor.tokenizer
    tokens = {*_SPECIAL, *_BYTES, vocabulary.unk_token}
    texts = [_TURNS]
    if tokenizer.start_of_image_token_id is not None:
        texts.append(place_images(tokenizer.start_of_image_token, [2], tokenizer))
    if preprocessor.chat_template is not None:
        texts.append(preprocessor.apply_chat_template(_DIALOGUE, add_generation_prompt=False))
    tokens |= set(getattr(preprocessor, "sentinels", ()))
    if vocabulary.token_to_id(FIRST_SENTINEL) is not None:
        tokens |= set(itertools.islice(sentinels(tokenizer), _MOST_SENTINELS))
    if any(vocabulary.token_to_id(byte) is None for byte in _BYTES):
        # Nothing stands in for a character that is gone.
        tokens |= {token for token in vocabulary.tokens if len(token) == 1}
    ids = {vocabulary.token_to_id(token) for token in tokens if token is not None}
    ids |= {*token_counts(vocabulary, texts), *ids_of_post_processor(vocabulary)}
    return ids - {None}


def _with_vocabulary(lm, data, kept, new_rows=None):
    """A new task with the vocabulary of a file, of rows of the table of `lm` and new ones."""
    tokenizer = lm.preprocessor.tokenizer
    tokenizer = type(tokenizer).from_config(tokenizer.get_config())
    tokenizer.set_proto(data)
    more = [] if new_rows is None else new_rows[0] if isinstance(new_rows, list) else new_rows
    size = len(kept) + len(more)
    ids = _image_ids(lm.backbone.config, kept, size)
    backbone = with_rows(lm.backbone, kept, new_rows, **ids)
    preprocessor = type(lm.preprocessor).from_config(
        {
            **lm.preprocessor.get_config(),
            "tokenizer": tokenizer,
            "image_converter": lm.preprocessor.image_converter,
        }
    )
    fields = {key: value for key, value in lm.get_config().items() if key != "adapters"}
    made = type(lm).from_config({**fields, "backbone": backbone, "preprocessor": preprocessor})
    _take_adapters(made, lm)
    compile_as(made, lm)
    return made


def _image_ids(config, kept, size):
    """The ids of image tokens in a table of `size` rows; those that are not in it stay beyond."""
    found = {}
    for name in ("end_of_image_token_id", "image_token_id"):
        old = getattr(config, name)
        if old is None:
            continue
        new = np.flatnonzero(kept == old)
        # An id that no token has must not become that of another one.
        found[name] = int(new[0]) if new.size else max(old, size)
    return found


def _take_adapters(made, lm):
    old, new = lm.adapter_set, made.adapter_set
    if not old.configs or old.is_merged:
        return
    for name in old.configs:
        found = adapter_files.stored(old, name)
        adapter_files.take(new, name, found, f"the adapter {name}", allow_nonfinite=True)
    new.choose(old.active)


def compile_as(made, lm):
    """Compiles as `lm` is compiled; its optimizer starts anew."""
    config = lm.get_compile_config()
    if not config:
        return
    state = {**config.get("state", {}), "is_optimizer_built": False}
    try:
        made.compile_from_config({**config, "state": state})
    except (TypeError, ValueError, AttributeError) as error:
        made.sampler = lm.sampler
        warn(
            "The new model has the sampler of the old one and is else compiled by default: what "
            f"the old one was compiled with cannot be copied ({shown(str(error))}). Call "
            "`compile` before `fit`"
        )


def _widths(config):
    stacks = (config.encoder, config.decoder) if config.decoder_table else (config.encoder,)
    return [stack.hidden_dim for stack in stacks]


def _mean_of_pieces(table, ids):
    return rows_of_table(table, ids).mean(axis=0)


def _tokenizer_of(lm, name):
    if getattr(lm.preprocessor, "tokenizer", None) is None:
        raise ValueError(
            f"`{name}` changes the tokenizer along with the embedding table, and needs a task "
            f"with a preprocessor. Received: preprocessor={shown(lm.preprocessor)}"
        )
    return lm.preprocessor.tokenizer


def _checked_size(size):
    found = None if size is None else integer(size)
    if size is not None and (found is None or found < 1):
        raise ValueError(
            f"`size` must be a number of tokens, or `None`. Received: size={shown(size)}"
        )
    return found


def _checked_ids(keep, vocabulary):
    if keep is None:
        return []
    if isinstance(keep, (str, bytes, dict)):
        raise TypeError(f"`keep` must be a list of token ids. Received: keep={shown(keep)}")
    keep = list(keep)
    found = [integer(id) for id in keep]
    wrong = [
        given
        for given, id in zip(keep, found, strict=True)
        if id is None or not 0 <= id < len(vocabulary)
    ]
    if wrong:
        raise ValueError(
            f"`keep` must be ids of the vocabulary, from 0 to {len(vocabulary) - 1}. Received: "
            f"{shown_names(wrong)}"
        )
    return found


def _checked_rows(init, shape):
    rows = None if isinstance(init, str) else np.asarray(init)
    if rows is None or rows.shape != shape or rows.dtype.kind not in "fiu":
        given = f"init={shown(init)}" if rows is None else f"an array of shape {rows.shape}"
        raise ValueError(
            f'`init` must be "mean", or an array of floats of shape {shape}, a row for each '
            f"token. Received: {given}"
        )
    if not np.isfinite(rows).all():
        raise ValueError("`init` must be finite. Received: an array with NaN or infinity")
    return rows.astype("float32")
