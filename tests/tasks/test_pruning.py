"""What a smaller vocabulary is said to keep and to lose."""

import pytest

import keras_t5gemma2

pytestmark = pytest.mark.once

ROWS = (["Spell 42 in German.", "Write 2026-12-17 in French."], ["zweiundvierzig", "17 décembre"])


def test_what_is_lost_is_reported():
    embedded = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    texts = ["Spell 42 in German.", "Noël", "Spell 42 in German. Noël ë"]
    small = embedded.prune_vocabulary(ROWS, held_out=texts)
    pruning = small.pruning
    losses = pruning.losses
    assert losses.texts == 3 and losses.texts_unchanged == 1
    before = embedded.preprocessor.tokenizer(texts)
    assert losses.tokens_before == sum(map(len, before))
    assert losses.tokens_after == sum(map(len, small.preprocessor.tokenizer(texts)))
    assert losses.most_lost[0].token == "ë" and losses.most_lost[0].count == 3
    assert losses.most_lost[0].now == ("<0xC3>", "<0xAB>")
    assert losses.most_lost[1] == ("▁N", 1, ("▁", "N"))
    assert losses.tokens_lost == 4 and losses.unknown == 0
    assert "1 of 3 texts have the same tokens" in str(pruning)
    assert f"2,560 tokens become {pruning.tokens_after:,}" in str(pruning)
    assert pruning.parameters_before - pruning.parameters_after == (
        128 * (2560 - pruning.tokens_after)
    )
