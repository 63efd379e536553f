"""The tokenizer of a preset of keras-hub: a SentencePiece model, found and written."""

import pathlib

TOKENIZER_ASSET = pathlib.PurePath("assets", "tokenizer", "vocabulary.spm")


def tokenizer_asset(directory):
    """The `pathlib.Path` of the SentencePiece model of a preset directory, or `None`."""
    path = pathlib.Path(directory) / TOKENIZER_ASSET
    return path if path.is_file() else None
