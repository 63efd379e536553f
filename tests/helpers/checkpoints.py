"""Backbones and tokenizers of checkpoints of one format, loaded without looking which it is."""

import pathlib

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Tokenizer
from keras_t5gemma2.checkpoints.gemma3.reader import Gemma3Checkpoint, gemma3_vocabulary
from keras_t5gemma2.checkpoints.transformers.reader import TransformersCheckpoint
from keras_t5gemma2.model import from_checkpoint


def load_backbone(directory, text_only=False, **options):
    checkpoint = TransformersCheckpoint(pathlib.Path(directory), text_only)
    backbone = from_checkpoint.load_backbone(T5Gemma2Backbone, checkpoint, **options)
    backbone.source = None  # random weights derive from nobody's
    return backbone


def load_gemma3(encoder, decoder=None, text_only=False, image_token_id=None, **options):
    of_decoder = {"decoder": decoder, "image_token_id": image_token_id}
    checkpoint = Gemma3Checkpoint(encoder, text_only, **of_decoder)
    return from_checkpoint.load_backbone(T5Gemma2Backbone, checkpoint, **options)


def load_gemma3_tokenizer(path):
    return T5Gemma2Tokenizer(gemma3_vocabulary(path))
