"""The metrics of texts, against values worked out by hand and against their libraries."""

import sys

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from keras_t5gemma2.evaluation import metrics
from keras_t5gemma2.evaluation.metrics import METRICS, metric_functions

pytestmark = pytest.mark.once

PREDICTIONS = ["the cat sat on the mat", "a red bee and a house", "what is this"]
REFERENCES = [
    ["the cat is on the mat", "there is a cat on the mat"],
    ["a red bee and a house"],
    ["who is he", "what was it", "what is that"],
]
# Streams of the first, second and third references, as sacrebleu takes them.
STREAMS = [
    ["the cat is on the mat", "a red bee and a house", "who is he"],
    ["there is a cat on the mat", None, "what was it"],
    [None, None, "what is that"],
]


def value(name, predictions, references, **options):
    (function,) = metric_functions([name], **options)
    return function(predictions, references)


def test_exact_match_is_to_the_letter():
    got = value("exact_match", ["two", "Two", "", "zwei "], [["two"], ["two"], [""], ["zwei"]])
    assert got == {"exact_match": 50.0}


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("sitting", ["kitten"], 1 - 3 / 7),
        ("intention", ["execution"], 0.0),  # 5 of 9
        ("abcd", ["ab"], 0.0),  # the half is not below the threshold
        ("abcde", ["abc"], 1 - 2 / 5),
        ("Lisbon ", ["porto", " lisbon"], 1.0),
        ("new  york", ["newyork"], 1 - 1 / 8),
        ("", ["a"], 0.0),
        ("a", [""], 0.0),
        ("", [""], 1.0),
        ("東京都", ["東京"], 1 - 1 / 3),
    ],
)
def test_anls_by_hand(prediction, references, score):
    np.testing.assert_allclose(metrics.anls(prediction, references), score, rtol=1e-12)


def test_edits_are_those_of_the_plain_recursion(rng):
    def edits(one, two):
        if not one or not two:
            return len(one) + len(two)
        changed = edits(one[1:], two[1:]) + (one[0] != two[0])
        return min(changed, edits(one[1:], two) + 1, edits(one, two[1:]) + 1)

    for _ in range(40):
        one, two = ("".join(rng.choice(list("ab"), size=rng.integers(0, 6))) for _ in range(2))
        assert metrics.edit_distance(one, two) == edits(one, two), (one, two)


def test_anls_is_the_mean_in_percent():
    got = value("anls", ["abcde", "b"], [["abc"], ["c", "b"]])
    np.testing.assert_allclose(got["anls"], 100 * (0.6 + 1) / 2)


def test_chrf_and_bleu_are_those_of_sacrebleu():
    got = value("chrf", PREDICTIONS, REFERENCES)
    assert got == {"chrf": sacrebleu.corpus_chrf(PREDICTIONS, STREAMS).score}
    got = value("bleu", PREDICTIONS, REFERENCES)
    assert got == {"bleu": sacrebleu.corpus_bleu(PREDICTIONS, STREAMS).score}
    assert 0 < got["bleu"] < 100


def test_bleu_of_a_single_reference_by_hand():
    """Precisions 5/6, 3/5, 1/4, 1/6 (sacrebleu's smoothing of 0/3), of the same length."""
    got = value("bleu", [PREDICTIONS[0]], [REFERENCES[0][:1]])
    want = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25
    np.testing.assert_allclose(got["bleu"], want)


def test_bleu_of_languages_without_spaces_needs_their_tokenizer():
    texts, references = ["今天天气很好吗"], [["今天天气很好啊"]]
    assert value("bleu", texts, references)["bleu"] == 0
    got = value("bleu", texts, references, bleu_tokenizer="zh")["bleu"]
    assert got == sacrebleu.corpus_bleu(texts, [["今天天气很好啊"]], tokenize="zh").score > 50


def test_rouge_is_that_of_rouge_score_in_english():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = [scorer.score_multi(r, p) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    got = value("rouge", PREDICTIONS, REFERENCES)
    assert list(got) == ["rouge1", "rouge2", "rougeL"]
    for name, score in got.items():
        np.testing.assert_allclose(score, 100 * np.mean([row[name].fmeasure for row in rows]))
    assert 0 < got["rouge2"] < got["rougeL"] < 100


def test_rouge_by_hand():
    """4 of 5 and 6 words; as pairs 2 of 4 and 5; in order 4."""
    got = value("rouge", ["The cat-sat, on mats"], [["the cat sat on the mat"]])
    np.testing.assert_allclose(got["rouge1"], 100 * 2 * 4 / (5 + 6))
    np.testing.assert_allclose(got["rouge2"], 100 * 2 * 3 / (4 + 5))
    np.testing.assert_allclose(got["rougeL"], 100 * 2 * 4 / (5 + 6))


def test_rouge_keeps_letters_of_all_scripts():
    """rouge-score's own tokenizer finds nothing to compare in them."""
    texts, references = ["кошка сидит"], [["кошка спит"]]
    np.testing.assert_allclose(value("rouge", texts, references)["rouge1"], 50)
    got = value("rouge", ["東京都"], [["東京"]], rouge_tokenizer=list)
    np.testing.assert_allclose(got["rouge1"], 100 * 2 * 2 / 5)


@pytest.mark.parametrize("name", METRICS)
def test_empty_texts_have_a_value(name):
    for texts, references in ([""], [["a b c d"]]), (["a b c d"], [[""]]):
        assert set(value(name, texts, references).values()) == {0.0}


def test_unknown_metrics():
    with pytest.raises(ValueError, match=r"Received: metrics=\['bleu', 'rougeL'\]"):
        metric_functions(["bleu", "rougeL"])
    with pytest.raises(ValueError, match=r"Received: metrics=\[\]"):
        metric_functions([])


@pytest.mark.parametrize(
    ("name", "library"),
    [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge", "rouge_score")],
)
def test_a_library_that_is_missing(monkeypatch, name, library):
    """Only the metric that needs it says so."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "rouge_score.rouge_scorer")
    with pytest.raises(ImportError, match=rf'"{name}" needs {library}.*keras-t5gemma2\[evaluation'):
        metric_functions(["exact_match", name])
    metric_functions(["exact_match", "anls"])
