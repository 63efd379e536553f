"""Small T5Gemma 1 models and tasks with random weights."""

import dataclasses

from tasks import TOKENIZER
from tiny_models import randomize

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5GemmaBackbone,
    T5GemmaSeq2SeqLM,
    T5GemmaSeq2SeqLMPreprocessor,
    T5GemmaTokenizer,
)

_RULES = {"query_pre_attn_scalar": 11.0, "qk_norm": False, "soft_cap": 2.0}
_LOCAL = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, window=9, **_RULES)
_FULL = dataclasses.replace(_LOCAL, window=None)
ENCODER = StackConfig(hidden_dim=28, mlp_dim=44, layers=(_LOCAL, _FULL))
DECODER = StackConfig(
    hidden_dim=20,
    mlp_dim=36,
    layers=(
        AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8, window=5, **_RULES),
        AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8, **_RULES),
    ),
    cross_attention_dim=28,
)
CONFIG = BackboneConfig(
    vocabulary_size=101,
    encoder=ENCODER,
    decoder=DECODER,
    end_of_image_token_id=None,
    image_token_id=None,
    final_logit_soft_cap=3.0,
    decoder_table=True,
)


def t5gemma1_backbone(config=CONFIG, dtype=None, seed=0):
    backbone = T5GemmaBackbone(config, dtype=dtype)
    randomize(backbone, seed)
    return backbone


def t5gemma1_task(dtype=None, cls=T5GemmaSeq2SeqLM, **arguments):
    """A task of two layers per stack, of unequal widths, whose weights are random."""
    tokenizer = T5GemmaTokenizer(TOKENIZER.to_tokenizer_json())
    preprocessor = T5GemmaSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=40, decoder_sequence_length=13
    )
    config = dataclasses.replace(CONFIG, vocabulary_size=tokenizer.vocabulary_size())
    task = cls(t5gemma1_backbone(config, dtype), preprocessor=preprocessor, **arguments)
    if cls is T5GemmaSeq2SeqLM:
        task.compile(sampler="greedy", optimizer="sgd")
    return task
