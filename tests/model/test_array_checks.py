"""Arrays are checked on the host before a step reads them."""

import keras
import numpy as np
import pytest
import tasks

IDS = np.array([[2, 9, 11], [2, 12, 0]], "int32")
MASK = np.array([[1, 1, 1], [1, 1, 0]], "int32")
X = {
    "encoder_token_ids": IDS,
    "encoder_padding_mask": MASK,
    "decoder_token_ids": IDS,
    "decoder_padding_mask": MASK,
}
LABELS = np.array([[9, 11, 1], [12, 1, 0]], "int32")


@pytest.fixture(scope="module")
def lm():
    lm = tasks.small_task()
    lm.preprocessor = None
    return lm


def changed(array, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[1, 2] = value
    return array


SIZE = tasks.ONE_LAYER.vocabulary_size
BAD_INPUTS = {
    "an id beyond the table": (
        {"encoder_token_ids": changed(IDS, SIZE)},
        f"`encoder_token_ids` must be from 0 to {SIZE - 1}.*Received: {SIZE} in row 1, token 2",
    ),
    "a negative id": ({"decoder_token_ids": changed(IDS, -1)}, "Received: -1 in row 1, token 2"),
    "an id that does not fit": (
        {"encoder_token_ids": changed(IDS, 2**32 + 5, "int64")},
        "Received: 4294967301 in row 1",
    ),
    "floats": ({"encoder_token_ids": IDS + 0.5}, "must hold integers.*dtype float64"),
    "one row of a mask": (
        {"encoder_padding_mask": MASK[:1]},
        r"`encoder_padding_mask` must have the shape of the ids, \(2, 3\).*\(1, 3\)",
    ),
    "an additive mask": (
        {"decoder_padding_mask": changed(MASK, -1e9, "float32")},
        "must hold 1 where .*Received: -1000000000.0 in row 1, token 2",
    ),
    "no mask": ({"encoder_padding_mask": None}, "The arrays must hold .*`encoder_padding_mask`"),
    "one axis": ({"decoder_token_ids": IDS[0], "decoder_padding_mask": MASK[0]}, "rows, tokens"),
    "fewer rows": (
        {"decoder_token_ids": IDS[:1], "decoder_padding_mask": MASK[:1]},
        "as many rows.*'decoder_token_ids': 1",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs_that_the_model_cannot_take_are_refused(lm, case):
    values, message = BAD_INPUTS[case]
    x = {name: value for name, value in {**X, **values}.items() if value is not None}
    steps = int(lm.optimizer.iterations)
    for run in (
        lambda: lm.fit(x, LABELS, batch_size=1, shuffle=False, verbose=0),
        lambda: lm.fit(iter([(x, LABELS)]), verbose=0),
        lambda: lm.fit(X, LABELS, validation_data=(x, LABELS), verbose=0),
        lambda: lm.evaluate(x, LABELS, verbose=0),
        lambda: lm.predict(x, verbose=0),
        lambda: lm.train_on_batch(x, LABELS),
        lambda: lm.test_on_batch(x, LABELS),
        lambda: lm.predict_on_batch(x),
        lambda: lm.generate(x, max_new_tokens=2, stop_token_ids=None),
        lambda: list(lm.stream(x, max_new_tokens=2, stop_token_ids=None)),
        lambda: lm.encode(x),
    ):
        if case in ("one axis", "fewer rows") and "max_new" in str(run.__code__.co_names):
            continue
        with pytest.raises(ValueError, match=message):
            run()
    assert int(lm.optimizer.iterations) == steps


BAD_TARGETS = {
    "a label beyond the table": (
        (changed(LABELS, SIZE), None),
        f"`labels` must be from 0 to {SIZE - 1}.*or -100 where there is no loss.*{SIZE} in row 1",
    ),
    "another negative label": ((changed(LABELS, -1), None), "Received: -1 in row 1, token 2"),
    "labels of floats": ((LABELS + 0.0, None), "`labels` must hold integers"),
    "labels of another shape": ((LABELS[:, :2], None), r"shape of `decoder_token_ids`, \(2, 3\)"),
    "a weight of NaN": ((LABELS, np.array([1.0, np.nan])), "finite and at least 0.*nan in row 1"),
    "a weight below zero": ((LABELS, np.array([-2, 1])), "Received: -2 in row 0"),
    "an infinite weight": ((LABELS, changed(MASK + 0.0, np.inf)), "inf in row 1, token 2"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets_that_have_no_loss_are_refused(lm, case):
    (labels, weights), message = BAD_TARGETS[case]
    for run in (lm.fit, lm.evaluate):
        with pytest.raises(ValueError, match=message):
            run(X, labels, sample_weight=weights, verbose=0)
    for run in (lm.train_on_batch, lm.test_on_batch):
        with pytest.raises(ValueError, match=message):
            run(X, labels, sample_weight=weights)


@pytest.mark.once
def test_weights_of_raw_rows_are_checked_too():
    lm = tasks.small_task()
    for weights in ([1.0, np.nan], [1, -1]):
        with pytest.raises(ValueError, match="`sample_weight` must be finite.*row 1"):
            lm.fit(tasks.SMALL_ROWS, sample_weight=weights, verbose=0)


IGNORED = changed(LABELS, -100)


@pytest.mark.once
def test_ignored_labels_have_no_loss(lm):
    for weights in (None, np.array([1.0, 3.0])):
        of_labels = np.ones((2, 3)) if weights is None else np.repeat(weights[:, None], 3, axis=1)
        want = lm.evaluate(X, LABELS, sample_weight=changed(of_labels, 0), verbose=0)
        got = lm.evaluate(X, IGNORED, sample_weight=weights, verbose=0)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        assert not np.allclose(lm.evaluate(X, LABELS, sample_weight=weights, verbose=0), want)


@pytest.mark.once
def test_ignored_labels_in_streams_and_in_training_loops_of_a_user_s_own(lm):
    want = lm.token_sums(X, LABELS, changed(MASK * 0 + 1, 0), training=False)
    got = lm.token_sums(X, IGNORED, training=False)
    for value, other in zip(got, want, strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (value, other)), rtol=1e-6)
    # Whether or not the first batch has some.
    batches = [(X, LABELS), (X, IGNORED), (X, IGNORED, np.ones(2))]
    assert np.isfinite(lm.fit(iter(batches), verbose=0).history["loss"]).all()


@pytest.mark.once
def test_no_encoder_and_masks_of_any_kind_are_taken(lm):
    for mask in (MASK * 0, MASK.astype(bool), MASK.astype("float32")):
        x = {**X, "encoder_padding_mask": mask}
        assert np.isfinite(lm.predict(x, verbose=0)).all()
        assert lm.generate(x, max_new_tokens=2, stop_token_ids=None)["decoder_token_ids"].any()


@pytest.mark.once
def test_one_row_without_an_axis_is_one_row():
    lm = tasks.small_task()
    preprocessor, text = lm.preprocessor, "what is in the garden"
    want = lm.generate(text, max_new_tokens=4)
    x = preprocessor.generate_preprocess(text)
    batch = preprocessor.generate_preprocess([text])
    lm.preprocessor = None
    options = {"max_new_tokens": 4, "stop_token_ids": [preprocessor.tokenizer.end_token_id]}
    assert preprocessor.generate_postprocess(lm.generate(x, **options)) == want
    assert preprocessor.generate_postprocess(lm.generate(batch, **options)) == [want]
    assert len(lm.encode(x)) == 1
    with pytest.raises(ValueError, match="preprocessor=None, and 'a text'"):
        lm.generate("a text", **options)


@pytest.mark.once
def test_arrays_are_scored_without_a_preprocessor():
    lm = tasks.small_task()
    want = lm.score(tasks.SMALL_ROWS)
    x, labels, weights = lm.preprocessor(tasks.SMALL_ROWS)
    ignored = np.where(weights > 0, labels, -100)
    np.testing.assert_allclose(lm.score((x, labels, weights)), want, rtol=1e-5)
    lm.preprocessor = None
    np.testing.assert_allclose(lm.score((x, ignored)), want, rtol=1e-5)
    with pytest.raises(ValueError, match="`labels` must be from 0"):
        lm.score((x, labels - 1))
    with pytest.raises(ValueError, match="must be a tuple of arrays, .x, labels."):
        lm.score(x)
