"""Samples to learn from: how likely they are, and the arrays of a step on them."""

import numpy as np
import pytest
from tasks import small_task

from keras_t5gemma2.preprocessing.rows import parse_rows
from keras_t5gemma2.training.samples import arrays_of, at_labels, draw, log_probs_of

ROWS = parse_rows(["the cat", "what is in the garden"])[0]


@pytest.fixture(scope="module")
def lm():
    return small_task()


@pytest.fixture(scope="module")
def samples(lm):
    return draw(lm, ROWS, 3, 5, (7, 0))


@pytest.mark.once
def test_samples_have_the_probabilities_of_their_model(lm, samples):
    assert len(samples.texts) == 6
    assert samples.inputs == ["the cat"] * 3 + ["what is in the garden"] * 3
    again = log_probs_of(lm, samples)
    x = arrays_of(samples)
    labels = x.pop("labels")
    x = {n: np.repeat(v, 3, axis=0) if n.startswith("encoder") else v for n, v in x.items()}
    scores = lm.score((x, np.where(labels < 0, -100, labels)), per_token=True)
    for ids, own, found, score in zip(samples.ids, samples.log_probs, again, scores, strict=True):
        assert len(ids) == len(own)
        np.testing.assert_allclose(found, own, atol=1e-5)
        np.testing.assert_allclose(score, own, atol=1e-5)


@pytest.mark.once
def test_arrays_hold_each_input_once_and_a_label_for_each_token(samples):
    x = arrays_of(samples)
    assert len(x["encoder_token_ids"]) == 2 and len(x["decoder_token_ids"]) == 6
    assert x["labels"][x["labels"] >= 0].tolist() == np.concatenate(samples.ids).tolist()
    for row, ids in zip(x["decoder_token_ids"], samples.ids, strict=True):
        assert row[1 : len(ids)].tolist() == ids[:-1].tolist()
    values = [np.full(len(ids), number) for number, ids in enumerate(samples.ids)]
    found = at_labels(x["labels"], values)
    assert found.sum() == sum(number * len(ids) for number, ids in enumerate(samples.ids))
    assert not found[x["labels"] < 0].any()


@pytest.mark.once
def test_rows_draw_by_their_own_numbers(lm, samples):
    one, two = draw(lm, ROWS, 3, 5, (7, 0)), draw(lm, ROWS[::-1], 3, 5, (7, 0))
    assert samples.texts == one.texts == two.texts[3:] + two.texts[:3]
    assert draw(lm, ROWS, 3, 5, (7, 1)).texts != samples.texts


@pytest.mark.once
def test_a_sample_is_no_longer_than_the_preprocessor_lets_it_be(lm):
    found = draw(lm, ROWS, 8, None, (7, 0))
    room = lm.preprocessor.decoder_sequence_length
    assert max(map(len, found.ids)) == room - 1
    assert 0 <= found.numbers()["finished"] < 1
