"""Texts that come after one input, scored together."""

import numpy as np
import pytest
from tasks import small_task

from keras_t5gemma2.evaluation import continuations as module
from keras_t5gemma2.evaluation.continuations import Continuation, score_continuations

TEXTS = [("the cat", "a dog"), ("the cat", "a red bee and a house"), ("a bee", "a"),
         ("what is in the garden", "the cat"), ("the cat", "a")]  # fmt: skip


def continuations(lm):
    tokenizer = lm.preprocessor.tokenizer
    return [Continuation(context, (), list(tokenizer(text))) for context, text in TEXTS]


@pytest.mark.once
def test_scores_are_those_of_each_row_alone():
    lm = small_task()
    rows = {"encoder_text": [x for x, _ in TEXTS], "decoder_text": [x for _, x in TEXTS]}
    want, want_greedy = lm.score(rows, end_token=False, is_greedy=True)
    for batch_size in (1, 2, 32):
        found = score_continuations(lm, continuations(lm), batch_size)
        np.testing.assert_allclose([score for score, _ in found], want, rtol=1e-5)
        assert [greedy for _, greedy in found] == want_greedy.tolist()


@pytest.mark.once
def test_an_input_is_encoded_once_for_its_texts(monkeypatch):
    lm, counts, remembered = small_task(), [], module.remembered

    def counted(generator, rows, call):
        counts.append(len(rows.encoder_ids))
        return remembered(generator, rows, call)

    monkeypatch.setattr(module, "remembered", counted)
    score_continuations(lm, continuations(lm), 32)
    assert sorted(counts) == [1, 2]


@pytest.mark.once
def test_nothing_is_certain():
    lm = small_task()
    found = score_continuations(lm, [Continuation("the cat", (), [])], 4)
    assert found == [(0.0, True)]


@pytest.mark.once
def test_logits_that_are_not_finite_are_an_error():
    lm = small_task()
    lm.backbone.decoder.norm.scale.assign([np.nan] * 28)
    with pytest.raises(ValueError, match="The logits of row 0"):
        score_continuations(lm, continuations(lm)[:1], 4)
