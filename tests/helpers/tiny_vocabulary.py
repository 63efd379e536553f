"""Tiny stand-ins for published files, made of the same parts."""

import pathlib

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

SPECIAL_TOKENS = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
# Added tokens that are not special: they are decoded like text, and they are never split.
PLAIN_TOKENS = (
    *("<start_of_turn>", "<end_of_turn>"),
    *("\n" * n for n in range(1, 6)),
    *("▁" * n for n in range(2, 5)),
    *("\t", "\t\t", "<table>", "</table>", "<unused0>"),
)
WORDS = (
    "the original image and here are some crops to help you see better is what in this a cat dog"
    " Here The What This red bee flower house garden describe compare with"
)


def tiny_tokenizer_json(path):
    """Writes what `tiny_tokenizer_data` gives to a file.

    Args:
        path: string or path-like, the file to write.

    Returns:
        `path`.
    """
    pathlib.Path(path).write_bytes(tiny_tokenizer_data())
    return path


def tiny_tokenizer_data():
    """The bytes of a `tokenizer.json` built like the published one, of a few hundred tokens.

    Byte-pair encoding with byte fallback, spaces as "▁", no prefix space, `<bos>` before every
    text, whitespace runs and tags as added tokens. The first ids are those of `SPECIAL_TOKENS`
    and `PLAIN_TOKENS` in order: pad 0, eos 1, bos 2, unk 3, mask 4, `<start_of_image>` 5,
    `<end_of_image>` 6, `<image_soft_token>` 7.

    Args:
        path: string or path-like, the file to write.

    Returns:
        `path`.
    """
    pieces, merges = _pieces_and_merges()
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*SPECIAL_TOKENS, *PLAIN_TOKENS, *byte_pieces, *pieces]
    vocabulary = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([_never_normalized(token) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([_never_normalized(token) for token in PLAIN_TOKENS])
    return tokenizer.to_str().encode("utf-8")


def _pieces_and_merges():
    """Single letters, and each word grown letter by letter, with and without its space."""
    words = WORDS.split()
    words = [*("▁" + word for word in words), *words, "▁▁▁▁"]
    letters = dict.fromkeys("".join(words) + ".,:;!?'")
    grown = [(word[:n], word[n]) for word in words for n in range(1, len(word))]
    merges = list(dict.fromkeys(grown))
    return [*letters, *dict.fromkeys(left + right for left, right in merges)], merges


def _never_normalized(token):
    return AddedToken(token, normalized=False)
