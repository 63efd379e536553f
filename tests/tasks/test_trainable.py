"""Training on raw text and images: what `fit` sees is what the loss says."""

import keras
import numpy as np
import pytest
from keras import ops
from preprocessors import random_image
from tasks import tiny_task

ROWS = {
    "encoder_text": [
        "the cat",
        "<start_of_image> is this a dog",
        "a bee<start_of_image>and<start_of_image>",
        "what is in the garden",
        "<start_of_image>",
    ],
    "images": [
        None,
        random_image(9, 8),
        [random_image(30, 20, seed=1), random_image(28, 28, seed=2)],
        [],
        random_image(50, 11, seed=3),
    ],
    "decoder_text": ["a dog", "yes", "a house", "a red bee and a house", "the image"],
}


@pytest.fixture(scope="module")
def lm():
    return tiny_task()


def expected_loss(lm, rows):
    """The mean over the rows' tokens, from the model's own logits, in numpy."""
    _, labels, weights = lm.preprocessor(rows)
    logits = ops.convert_to_numpy(lm.predict_on_batch(rows)).astype("float64")
    shifted = logits - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    of_labels = np.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    return -(of_labels * weights).sum() / weights.sum()


@pytest.mark.once
def test_mixed_rows_train_with_their_images(lm):
    """The loss of a step is that of the rows with their images, and each step lowers it."""
    want = expected_loss(lm, ROWS)
    history = lm.fit(ROWS, batch_size=5, epochs=3, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], want, rtol=1e-5)
    assert history[2] < history[1] < history[0]


@pytest.mark.once
def test_images_change_the_loss(lm):
    blank = {**ROWS, "images": [None, random_image(9, 8, seed=9), *ROWS["images"][2:]]}
    with_image, with_other = (
        lm.evaluate(rows, batch_size=5, verbose=0)[0] for rows in (ROWS, blank)
    )
    assert abs(with_image - with_other) > 1e-4


@pytest.mark.once
def test_rows_stay_together_in_batches(lm):
    """Batches of 2, 2 and 1 rows, with 1, 2 and 1 images at most: the same mean as one batch."""
    whole = lm.evaluate(ROWS, batch_size=5, verbose=0)[0]
    parts = lm.evaluate(ROWS, batch_size=2, verbose=0)[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert lm.predict(ROWS, batch_size=2, verbose=0).shape == (
        5,
        13,
        lm.backbone.config.vocabulary_size,
    )


@pytest.mark.once
def test_py_datasets_and_validation_data(lm):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {name: values[index : index + 3] for name, values in ROWS.items()}

    history = lm.fit(Batches(), validation_data=ROWS, verbose=0).history
    assert np.isfinite(history["loss"] + history["val_loss"]).all()


@pytest.mark.once
def test_tf_data_gives_the_same_loss():
    tf = pytest.importorskip("tensorflow")
    lm = tiny_task(vision=False)
    texts = {
        "encoder_text": ["the cat", "a dog is here", "what is this"],
        "decoder_text": ["a dog", "yes", "a red bee"],
    }
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(3)
    got = lm.evaluate(dataset, verbose=0)[0]
    np.testing.assert_allclose(got, lm.evaluate(texts, batch_size=3, verbose=0)[0], rtol=1e-5)


@pytest.mark.once
def test_sample_weight_of_rows(lm):
    first = {name: values[:1] for name, values in ROWS.items()}
    rows = {name: values[:2] for name, values in ROWS.items()}
    weighted = lm.evaluate(rows, sample_weight=np.array([1.0, 0.0]), verbose=0)[0]
    np.testing.assert_allclose(weighted, lm.evaluate(first, verbose=0)[0], rtol=1e-5)


@pytest.mark.once
def test_scores_are_the_log_probabilities_of_the_targets(lm):
    """Their mean over all tokens is what the loss says."""
    scores = lm.score(ROWS)
    tokens = lm.preprocessor(ROWS)[2].sum()
    np.testing.assert_allclose(-scores.sum() / tokens, expected_loss(lm, ROWS), rtol=1e-5)
    second = {name: values[1] for name, values in ROWS.items()}
    np.testing.assert_allclose(lm.score(second), scores[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": [None] * 5}, ValueError, "row [124]"),
        ({"decoder_text": None}, ValueError, "`decoder_text` must be given"),
        ({"decoder_text": ["a"] * 4}, ValueError, "as many rows"),
        ({"encoder_text": [3, *ROWS["encoder_text"][1:]]}, TypeError, "row 0: 3"),
        ({"images": [None, "no such file.png", *ROWS["images"][2:]]}, ValueError, "row 1.*no such"),
    ],
    ids=["no images", "no targets", "fewer targets", "a number", "no file"],
)
def test_bad_rows_are_named(lm, change, error, message):
    with pytest.raises(error, match=message):
        lm.fit({**ROWS, **change}, batch_size=5, verbose=0)


def test_raw_text_is_not_what_the_model_takes(lm):
    with pytest.raises(ValueError, match="does not apply preprocessing"):
        lm({"encoder_text": ["a"], "decoder_text": ["b"]})
