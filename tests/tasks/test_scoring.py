"""Scores of targets and of next tokens, against all logits at once."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tasks import ONE_LAYER, SMALL_ROWS, TOKENIZER, small_task, tiny_task

import keras_t5gemma2
from keras_t5gemma2 import kernels

PROMPTS = {**SMALL_ROWS, "decoder_text": ["a", "a red bee"]}
TOKENS = ["cat", "▁dog".replace("▁", " "), 7]


def log_probabilities(lm, x):
    return ops.convert_to_numpy(ops.log_softmax(ops.cast(lm(x), "float32"), axis=-1))


def want_of(lm, rows):
    """Per row its labels' log-probabilities, the end token's among them, and the first choices."""
    x, labels, weights = lm.preprocessor(rows)
    found = log_probabilities(lm, x)
    of_labels = np.take_along_axis(found, labels[..., None], axis=-1)[..., 0]
    return [
        (of_labels[row][seen], (found[row].argmax(axis=-1) == labels[row])[seen])
        for row, seen in enumerate(weights > 0)
    ]


# Targets ---------------------------------------------------------------------------------------


def test_scores_are_sums_of_log_probabilities():
    lm = small_task()
    want = want_of(lm, SMALL_ROWS)
    scores = lm.score(SMALL_ROWS)
    assert scores.shape == (2,) and scores.dtype == "float32"
    np.testing.assert_allclose(scores, [of_row.sum() for of_row, _ in want], rtol=1e-5)
    each = lm.score(SMALL_ROWS, per_token=True)
    assert isinstance(each, list) and len(each) == 2
    for got, (of_row, _), score in zip(each, want, scores, strict=True):
        assert got.dtype == "float32" and got.ndim == 1
        np.testing.assert_allclose(got, of_row, rtol=1e-5)
        np.testing.assert_allclose(got.sum(), score, rtol=1e-6)


@pytest.mark.once
def test_the_end_token_may_be_left_out():
    lm = small_task()
    want = want_of(lm, SMALL_ROWS)
    each = lm.score(SMALL_ROWS, end_token=False, per_token=True)
    for got, (of_row, _) in zip(each, want, strict=True):
        np.testing.assert_allclose(got, of_row[:-1], rtol=1e-5)
    scores = lm.score(SMALL_ROWS, end_token=False)
    np.testing.assert_allclose(scores, [of_row[:-1].sum() for of_row, _ in want], rtol=1e-5)
    x, labels, weights = lm.preprocessor(SMALL_ROWS)
    np.testing.assert_allclose(lm.score((x, labels, weights), end_token=False), scores, rtol=1e-6)


def test_targets_that_the_model_would_choose_are_told():
    lm = small_task()
    own = lm.generate(SMALL_ROWS["encoder_text"], max_new_tokens=4)
    rows = {"encoder_text": SMALL_ROWS["encoder_text"], "decoder_text": [own[0], "a dog"]}
    scores, greedy = lm.score(rows, end_token=False, is_greedy=True)
    want = [of_row[:-1].all() for _, of_row in want_of(lm, rows)]
    assert greedy.dtype == bool and greedy.tolist() == want and want[0]
    np.testing.assert_allclose(scores, lm.score(rows, end_token=False), rtol=1e-6)


@pytest.mark.once
def test_a_single_row_has_no_axis_of_rows():
    lm = small_task()
    row = {name: values[1] for name, values in SMALL_ROWS.items()}
    score, greedy = lm.score(row, is_greedy=True)
    assert type(score) is float and type(greedy) is bool
    assert abs(score - lm.score(SMALL_ROWS)[1]) < 1e-4
    tokens = lm.score(row, per_token=True)
    assert tokens.shape == (len(TOKENIZER(row["decoder_text"])) + 1,)


@pytest.mark.once
@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_logits_are_there_for_a_chunk_at_a_time(chunk, monkeypatch):
    lm = small_task()
    want = lm.score(SMALL_ROWS, per_token=True)
    size = lm.backbone.config.vocabulary_size
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 4 * size * chunk)
    shapes, logits = [], type(lm).logits
    monkeypatch.setattr(
        type(lm), "logits", lambda self, x: shapes.append(x.shape) or logits(self, x)
    )
    for got, wanted in zip(lm.score(SMALL_ROWS, per_token=True), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert {tuple(shape) for shape in shapes} == {(chunk, 28)}


@pytest.mark.once
@pytest.mark.parametrize("change", ["int8", "int4", "bfloat16", "lora"])
def test_scores_are_those_of_whatever_the_model_is(change):
    lm = small_task(dtype="bfloat16" if change == "bfloat16" else None)
    if change.startswith("int"):
        lm.quantize(change)
    if change == "lora":
        lm.enable_lora(rank=2)
        lm.fit(SMALL_ROWS, epochs=2, verbose=0)
    want = [of_row.sum() for of_row, _ in want_of(lm, SMALL_ROWS)]
    tolerance = 2e-2 if change == "bfloat16" else 1e-5
    np.testing.assert_allclose(lm.score(SMALL_ROWS), want, rtol=tolerance)


@pytest.mark.once
def test_a_score_follows_the_weights_and_counts_weights_of_labels():
    lm = small_task()
    x, labels, weights = lm.preprocessor(SMALL_ROWS)
    before = lm.score((x, labels, weights), per_token=True)
    for got, want in zip(lm.score((x, labels, weights * 0.5), per_token=True), before, strict=True):
        np.testing.assert_allclose(got, 0.5 * want, rtol=1e-6)
    lm.fit(SMALL_ROWS, epochs=3, verbose=0)
    assert (lm.score(SMALL_ROWS) > [of_row.sum() for of_row in before]).all()


@pytest.mark.once
def test_a_task_that_is_not_compiled_scores_too():
    lm = small_task()
    other = type(lm)(lm.backbone, lm.preprocessor, compile=False)
    np.testing.assert_allclose(other.score(SMALL_ROWS), lm.score(SMALL_ROWS), rtol=1e-6)
    probabilities = other.score_tokens(PROMPTS, ["cat"]).probabilities
    np.testing.assert_array_equal(probabilities, np.ones((2, 1)))


@pytest.mark.once
def test_without_a_preprocessor_nobody_knows_the_end_token():
    lm = small_task()
    x, labels, weights = lm.preprocessor(SMALL_ROWS)
    lm.preprocessor = None
    assert lm.score((x, labels, weights)).shape == (2,)
    with pytest.raises(ValueError, match="`end_token=False` needs a preprocessor"):
        lm.score((x, labels, weights), end_token=False)


# Next tokens -----------------------------------------------------------------------------------


def want_logits(lm, prompts):
    """(rows, vocabulary) logits of the token behind each prompt."""
    x = lm.preprocessor.generate_preprocess(prompts)
    last = x["decoder_padding_mask"].sum(axis=1).astype(int) - 1
    logits = ops.convert_to_numpy(lm(x))
    return logits[np.arange(len(logits)), last]


def ids_of(tokens):
    return [TOKENIZER(token)[0] if isinstance(token, str) else token for token in tokens]


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def test_next_tokens_have_their_logits_and_probabilities():
    lm = small_task()
    want = want_logits(lm, PROMPTS)
    ids = ids_of(TOKENS)
    logits, probabilities = lm.score_tokens(PROMPTS, TOKENS)
    assert logits.shape == (2, 3) and logits.dtype == probabilities.dtype == "float32"
    np.testing.assert_allclose(logits, want[:, ids], atol=1e-5)
    np.testing.assert_allclose(probabilities, softmax(want[:, ids]), atol=1e-6)
    found = lm.score_tokens(PROMPTS, TOKENS, over_vocabulary=True)
    np.testing.assert_allclose(found.logits, logits, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, softmax(want)[:, ids], atol=1e-6)


@pytest.mark.once
def test_next_tokens_of_many_rows_keep_their_order():
    lm = small_task()
    texts = ["the cat", "what is in the garden", "a dog", "a red bee and a house", "this"]
    rows = {"encoder_text": texts, "decoder_text": ["a", "", "the red", "", "a dog is"]}
    want = lm.score_tokens(rows, TOKENS).logits
    np.testing.assert_allclose(lm.score_tokens(rows, TOKENS, batch_size=2).logits, want, atol=1e-5)
    for number in range(5):
        row = {name: values[number] for name, values in rows.items()}
        alone = lm.score_tokens(row, TOKENS).logits
        assert alone.shape == (3,)
        np.testing.assert_allclose(alone, want[number], atol=1e-5)


@pytest.mark.once
def test_a_document_is_encoded_once_for_many_prompts():
    lm = small_task()
    encoded = lm.encode("what is in the garden")
    prompts = {"decoder_text": ["a", "a red bee", "the"]}
    want = lm.score_tokens(
        {"encoder_text": ["what is in the garden"] * 3, **prompts}, TOKENS, over_vocabulary=True
    )
    for over in (True, False):
        found = lm.score_tokens(prompts, TOKENS, encoded=encoded, over_vocabulary=over)
        np.testing.assert_allclose(found.logits, want.logits, atol=1e-5)
        shares = want.probabilities if over else softmax(want.logits)
        np.testing.assert_allclose(found.probabilities, shares, atol=1e-6)
    with pytest.raises(ValueError, match="as many rows as were encoded.*3 rows.*2 rows"):
        lm.score_tokens(prompts, TOKENS, encoded=lm.encode(["a", "the"]))
    assert lm.score_tokens(None, TOKENS, encoded=encoded).logits.shape == (1, 3)


@pytest.mark.once
@pytest.mark.parametrize("change", ["int8", "int4", "rounded", "bfloat16", "capped", "shared"])
def test_next_tokens_of_whatever_the_model_is(change):
    config = ONE_LAYER
    if change == "capped":
        config = dataclasses.replace(config, final_logit_soft_cap=2.0)
    lm = small_task(config, dtype="bfloat16" if change == "bfloat16" else None)
    if change.startswith("int"):
        lm.quantize(change)
    if change == "rounded":
        lm.quantize(keras.quantizers.Int8QuantizationConfig())
    if change == "shared":
        lm.cross_attention_cache = "shared"
    want = want_logits(lm, PROMPTS)[:, ids_of(TOKENS)]
    atol = 3e-2 if change == "bfloat16" else 1e-4
    np.testing.assert_allclose(lm.score_tokens(PROMPTS, TOKENS).logits, want, atol=atol)


@pytest.mark.once
def test_next_tokens_behind_images():
    lm = tiny_task()
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), "uint8")
    rows = {
        "encoder_text": ["<start_of_image> a dog", "the cat"],
        "images": [[image], []],
        "decoder_text": ["a", "the"],
    }
    want = want_logits(lm, rows)[:, ids_of(TOKENS)]
    np.testing.assert_allclose(lm.score_tokens(rows, TOKENS).logits, want, atol=1e-4)


@pytest.mark.once
def test_the_first_token_of_generate_is_the_most_likely_one():
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    every = list(range(lm.backbone.config.vocabulary_size))
    scores = lm.score_tokens("Spell 42 in German.", every, over_vocabulary=True)
    token = lm.preprocessor.tokenizer.id_to_token(int(scores.probabilities.argmax()))
    assert "zweiundvierzig".startswith(token)
    np.testing.assert_allclose(scores.probabilities.sum(), 1, atol=1e-5)


@pytest.mark.once
def test_what_is_no_list_of_tokens_is_refused():
    lm = small_task()
    for tokens, error, text in (
        ("yes", TypeError, "list of at least one token.*tokens='yes'"),
        ([], TypeError, r"tokens=\[\]"),
        (["cat", "dolphin"], ValueError, "one token of the vocabulary. Received: 'dolphin'"),
        ([""], ValueError, "which is 0 tokens"),
        ([10**6], ValueError, "integer from 0 to .*1000000"),
        ([1.5], ValueError, "Received: 1.5"),
    ):
        with pytest.raises(error, match=text):
            lm.score_tokens(PROMPTS, tokens)
    x = lm.preprocessor.generate_preprocess(PROMPTS)
    want = lm.score_tokens(PROMPTS, [9, 10]).logits
    lm.preprocessor = None
    np.testing.assert_allclose(lm.score_tokens(x, [9, 10]).logits, want, atol=1e-5)
    with pytest.raises(ValueError, match="need a preprocessor.*'cat'. Give ids"):
        lm.score_tokens(x, ["cat"])


@pytest.mark.once
def test_logits_that_are_not_finite_name_their_row():
    lm = small_task()
    table = ops.convert_to_numpy(lm.backbone.token_embedding.embeddings).copy()
    table[TOKENIZER("in the garden")[-1]] = np.nan
    lm.backbone.token_embedding.embeddings.assign(table)
    rows = {"encoder_text": ["the cat", "in the garden"], "decoder_text": ["a", "a"]}
    with pytest.raises(ValueError, match="The logits of row 1 are not finite"):
        lm.score_tokens(rows, ["cat"])
