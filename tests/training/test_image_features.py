"""Features of images computed once for all epochs: what stands for an image, and that it does."""

import keras
import numpy as np
import pytest
from keras import ops
from preprocessors import random_image
from tasks import tiny_task

from keras_t5gemma2 import ImageFeatures, T5Gemma2ImageConverter

ONE, OTHER = random_image(9, 8), random_image(30, 20, seed=1)
ROWS = {
    "encoder_text": [
        "<start_of_image> is this a dog",
        "the cat",
        "a bee<start_of_image>and<start_of_image>",
        "<start_of_image>",
    ],
    "images": [ONE, None, [OTHER, np.asarray(ONE)], [OTHER]],
    "decoder_text": ["yes", "a dog", "a house", "a red bee"],
}


@pytest.fixture(scope="module")
def lm():
    return tiny_task()


@pytest.fixture(scope="module")
def features(lm):
    return lm.precompute(ROWS, batch_size=3, verbose=0)


@pytest.mark.once
def test_they_stand_for_the_images(lm, features):
    assert {**features, "images": None} == {**ROWS, "images": None}
    counts = [len(images) for images in features["images"]]
    assert counts == [1, 0, 2, 1]
    assert features["images"][0][0].values.shape == (1, 4, 24)
    got, want = (lm.evaluate(rows, batch_size=4, verbose=0)[0] for rows in (features, ROWS))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert lm.generate(features, max_new_tokens=5) == lm.generate(ROWS, max_new_tokens=5)


@pytest.mark.once
def test_the_tower_does_not_run_on_them(lm, features, monkeypatch):
    """On TensorFlow it stays in the graph, for an empty batch: of any image it would give NaN."""
    lm = tiny_task()

    def call(images, training=False):
        return ops.full((ops.shape(images)[0], 4, 24), np.nan)

    monkeypatch.setattr(lm.backbone.vision.tower, "call", call)
    assert np.isfinite(lm.fit(features, batch_size=4, verbose=0).history["loss"][0])


def test_an_image_is_computed_once(lm, features, monkeypatch):
    """Whether it comes as the same object or with the same pixels."""
    first, _, (second, third), (fourth,) = features["images"]
    assert first[0] is third and second is fourth
    batches = []
    monkeypatch.setattr(
        keras.Sequential,
        "predict_on_batch",
        lambda self, x: batches.append(x) or np.zeros((len(x), 4, 24)),
    )
    lm.precompute(ROWS, batch_size=8, verbose=0)
    assert [np.abs(batch).max(axis=(1, 2, 3)).astype(bool).sum() for batch in batches] == [2]
    again = lm.precompute(features, verbose=0)
    assert len(batches) == 1 and again == features


def test_crops_have_features_too(lm, monkeypatch):
    converter = T5Gemma2ImageConverter((28, 28), pan_and_scan=True, min_crop_size=4)
    monkeypatch.setattr(lm.preprocessor, "image_converter", converter)
    monkeypatch.setattr(lm.preprocessor, "encoder_sequence_length", 120)
    row = {"encoder_text": "<start_of_image>", "images": random_image(9, 27), "decoder_text": "a"}
    kept = lm.precompute(row, verbose=0)
    assert repr(kept["images"]) == "[ImageFeatures(crops=3, tokens_per_image=4, hidden_dim=24)]"
    (x, *_), (want, *_) = lm.preprocessor(kept), lm.preprocessor(row)
    np.testing.assert_array_equal(x["encoder_token_ids"], want["encoder_token_ids"])
    assert x["image_features"].shape == (4, 4, 24) and x["images"].size == 0


def test_rows_may_be_a_list_of_dicts(lm, features):
    rows = [{name: values[i] for name, values in ROWS.items()} for i in range(4)]
    kept = lm.precompute(rows, batch_size=3, verbose=0)
    assert [row["encoder_text"] for row in kept] == ROWS["encoder_text"]
    for row, want in zip(kept, features["images"], strict=True):
        for a, b in zip(row["images"], want, strict=True):
            np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.once
def test_half_precision_takes_two_bytes():
    lm = tiny_task(dtype="bfloat16")
    kept = lm.precompute({name: values[:1] for name, values in ROWS.items()}, verbose=0)
    assert kept["images"][0][0].values.dtype == "float16"


def changed(rows, row, image):
    return {**rows, "images": [image if i == row else v for i, v in enumerate(rows["images"])]}


@pytest.mark.parametrize(
    ("row", "image", "message"),
    [
        (0, ONE, "features for image 0 of row 2, and none for image 0 of row 0"),
        (3, np.zeros((1, 3, 24), "float32"), "row 3, image 0: .*tokens_per_image=4, .*image=3"),
        (3, np.zeros((1, 4, 23), "float32"), "hidden_dim=24 first, and 23 for image 0 of row 3"),
    ],
    ids=["an image among features", "tokens", "width"],
)
def test_features_must_fit_together(lm, features, row, image, message):
    image = ImageFeatures(image) if isinstance(image, np.ndarray) else image
    with pytest.raises(ValueError, match=message):
        lm.fit(changed(features, row, image), batch_size=4, shuffle=False, verbose=0)


def test_features_of_another_tower_are_refused(lm):
    """They know their shape: nothing else tells them apart."""
    row = {name: values[:1] for name, values in ROWS.items()}
    row["images"] = [ImageFeatures(np.zeros((1, 4, 23), "float32"))]
    for use in (lm.evaluate, lm.generate):
        with pytest.raises(ValueError, match=r"images, 4, 24\).*shape \(.*, 4, 23\)"):
            use(row)


def test_a_tower_in_training_has_no_features_to_keep():
    lm = tiny_task()
    lm.backbone.vision.tower.trainable = True
    with pytest.raises(ValueError, match="tower.trainable=True"):
        lm.precompute(ROWS)
    with pytest.raises(ValueError, match="vision=None"):
        tiny_task(vision=False).precompute(ROWS)


def test_a_bad_image_is_named(lm):
    broken = np.full((5, 5, 3), np.nan, "float32")
    with pytest.raises(ValueError, match="In row 3, image 0: .*levels from nan to nan"):
        lm.precompute(changed(ROWS, 3, broken))
    with pytest.raises(ValueError, match="Received: an empty data set"):
        lm.precompute(row for row in ())
