"""Tokens classified: labels of words, in training and out."""

import keras
import numpy as np
import pytest
from tasks import tiny_task

from keras_t5gemma2 import T5Gemma2TokenClassifier

TEXTS = ["the cat", "what is in the garden"]
LABELS = [[0, 1], [2, 0, -100, 0, 1]]
WORDS = [text.split() for text in TEXTS]


def tagger(num_classes=3, vision=False, **options):
    lm = tiny_task(vision=vision)
    made = T5Gemma2TokenClassifier(lm.backbone, num_classes, lm.preprocessor, **options)
    for weight in made.head_variables():
        weight.assign(np.random.default_rng(3).normal(size=weight.shape))
    return made


@pytest.mark.once
def test_labels_of_words_are_those_of_their_first_tokens():
    model = tagger()
    loss = model.evaluate(TEXTS, LABELS, return_dict=True, verbose=0)["loss"]
    of_words = model.evaluate(WORDS, LABELS, return_dict=True, verbose=0)["loss"]
    rows = {"encoder_text": TEXTS, "label": LABELS}
    by_column = model.evaluate(rows, return_dict=True, verbose=0)["loss"]
    logits = model.predict(TEXTS, verbose=0)
    tokenizer, logs = model.preprocessor.tokenizer, []
    for text, labels, of_row in zip(TEXTS, LABELS, logits, strict=True):
        # A word's first token comes behind those of the text before the word.
        starts = [0, *(i for i, letter in enumerate(text) if letter == " ")]
        places = [1 + len(tokenizer.tokenize(text[:start])) for start in starts]
        for place, label in zip(places, labels, strict=True):
            if label >= 0:
                logs.append(of_row[place][label] - np.log(np.exp(of_row[place]).sum()))
    np.testing.assert_allclose([loss, of_words, by_column], -np.mean(logs), rtol=1e-5)


@pytest.mark.once
def test_a_batch_gives_what_rows_give_alone_and_words_their_tokens(tmp_path):
    model = tagger()
    together = model.predict(TEXTS, verbose=0)
    assert together.shape == (2, 32, 3)
    found = model.label_words(TEXTS)
    assert [[word.text for word in row] for row in found] == WORDS
    for text, row in zip(TEXTS, found, strict=True):
        alone = model.label_words(text)
        assert [text[word.start : word.end] for word in row] == [word.text for word in row]
        assert [word.label for word in alone] == [word.label for word in row]
        got = [[word.probability for word in words] for words in (alone, row)]
        np.testing.assert_allclose(*got, rtol=1e-5)
    assert all(1 / 3 <= word.probability <= 1 for row in found for word in row)
    model.save_to_preset(tmp_path)
    again = T5Gemma2TokenClassifier.from_preset(tmp_path)
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), together, rtol=1e-5, atol=1e-6)


@pytest.mark.once
def test_fit_learns_from_a_stream_and_a_list():
    model = tagger()
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(TEXTS, LABELS, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    batches = [({"encoder_text": TEXTS}, LABELS)] * 3
    assert model.fit(iter(batches), verbose=0).history["loss"][0] < history["loss"][0]
    arrays = model.preprocessor.generate_preprocess(TEXTS)
    labels = np.full(arrays["encoder_token_ids"].shape, -100)
    labels[:, 1] = 2
    model.fit(arrays, labels, verbose=0)


@pytest.mark.once
def test_words_around_images_and_behind_the_end():
    model = tagger(vision=True)
    image = np.zeros((30, 30, 3), "uint8")
    row = {"encoder_text": ["a <start_of_image> cat <start_of_image>dog"], "images": [[image] * 2]}
    found = model.label_words(row)[0]
    assert [word.text for word in found] == ["a", "cat", "dog"]
    _, labels = model.preprocess_samples({**row, "label": [[0, 1, 2]]})
    x, _ = model.preprocess_samples({**row, "label": [[0, 1, 2]]})
    ids = x["encoder_token_ids"][0][labels[0] >= 0]
    pieces = [model.preprocessor.tokenizer.detokenize([int(i)]).strip() for i in ids]
    assert [w[: len(p)] for w, p in zip(["a", "cat", "dog"], pieces, strict=True)] == pieces
    model = tagger()
    with pytest.warns(UserWarning, match="row 0"):
        cut = model.label_words("the cat " * 30)
    assert cut[0].label >= 0
    assert (cut[-1].label, cut[-1].probability) == (-1, 0.0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (TEXTS, [[0, 1], [2, 0]], "Received in row 1: 2 labels and 5 words"),
        (TEXTS, [[0, 3], LABELS[1]], "Labels must be integers from 0 to 2, or -100"),
        (TEXTS, [[0, 1]], "Received: 1 labels and 2 rows"),
        ([["the", " "], WORDS[1]], LABELS, "Words must not be empty. Received in row 0"),
    ],
)
def test_labels_that_fit_no_words(x, labels, message):
    with pytest.raises(ValueError, match=message):
        tagger().fit(x, labels, verbose=0)


@pytest.mark.once
def test_one_class_is_refused():
    with pytest.raises(ValueError, match="`num_classes` must be at least 2 where tokens"):
        T5Gemma2TokenClassifier(tiny_task(vision=False).backbone, 1)
