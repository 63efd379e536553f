"""Bad data is named, with its row, and before the first step where it is in memory."""

import keras
import numpy as np
import pytest
import tasks
from preprocessors import random_image
from tasks import tiny_task

from keras_t5gemma2.training.streams import PyDatasetBatches

ROWS = {
    "encoder_text": ["the cat", "<start_of_image> is this", "a dog", "<start_of_image>"],
    "images": [None, random_image(), [], [random_image()]],
    "decoder_text": ["a dog", "yes", "a house", "the image"],
}
LONG = "a red bee and a house " * 5


@pytest.fixture(scope="module")
def lm():
    return tiny_task()


def with_row(row, **values):
    """`ROWS` with other values of one row."""
    rows = {name: list(column) for name, column in ROWS.items()}
    for name, value in values.items():
        rows[name][row] = value
    return rows


def pixels(value):
    image = np.zeros((5, 6, 3), "float32")
    image[2, 3, 1] = value
    return image


BAD_ROWS = {
    "an empty target": (with_row(2, decoder_text=""), "must not be empty.* row 2: ''"),
    "a blank target": (with_row(2, decoder_text=" \n"), r"row 2: ' \\n'.*write \"<eos>\""),
    "no target": (with_row(2, decoder_text=None), "row 2: None"),
    "a number": (with_row(3, encoder_text=7), "row 3: 7 .type <class 'int'>"),
    "an image too few": (with_row(3, images=None), "row 3: 1 of them and 0 images"),
    "an image too many": (with_row(2, images=random_image()), "row 2: 0 of them and 1 images"),
    "NaN": (with_row(3, images=[pixels(np.nan)]), "In row 3, image 0: .*from nan to nan"),
    "infinity": (with_row(3, images=pixels(np.inf)), "In row 3, image 0: .*from 0.0 to inf"),
    "no room": (
        with_row(3, encoder_text="a red bee " * 12 + "<start_of_image>"),
        "length=40, and in row 3 images that end at token",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_in_memory_are_checked_before_the_first_step(lm, case):
    rows, message = BAD_ROWS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        lm.fit(rows, batch_size=1, shuffle=False, verbose=0)
    assert int(lm.optimizer.iterations) == 0
    with pytest.raises((ValueError, TypeError), match=message):
        lm.evaluate(rows, batch_size=1, verbose=0)
    with pytest.raises((ValueError, TypeError), match=message):
        lm.fit(ROWS, validation_data=rows, batch_size=1, verbose=0)
    assert int(lm.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_row(2, encoder_text=LONG), "`encoder_text` must fit.*row 2: 3[0-9] tokens, .*=20"),
        (with_row(2, decoder_text=LONG), "`decoder_text` must fit.*row 2: 3[0-9] tokens, .*=13"),
        (
            with_row(3, encoder_text=f"<start_of_image>{LONG}"),
            "`encoder_text` must fit.*row 3: [34][0-9] tokens, encoder_sequence_length=20",
        ),
    ],
    ids=["encoder", "decoder", "with an image"],
)
def test_long_text_is_refused_where_it_is_not_to_be_cut(lm, monkeypatch, rows, message):
    preprocessor = lm.preprocessor
    monkeypatch.setattr(preprocessor, "encoder_sequence_length", 20)
    preprocessor.check_rows(rows)  # it is cut
    monkeypatch.setattr(preprocessor, "truncate", False)
    preprocessor.check_rows(ROWS)
    with pytest.raises(ValueError, match=message):
        lm.fit(rows, batch_size=1, verbose=0)
    with pytest.raises(ValueError, match=message):
        preprocessor(rows)


def test_a_target_of_just_the_length_is_not_too_long(lm, monkeypatch):
    """The start token is an input only and the end token a label only."""
    preprocessor = lm.preprocessor
    monkeypatch.setattr(preprocessor, "truncate", False)
    monkeypatch.setattr(preprocessor, "decoder_sequence_length", 3)
    row = {"encoder_text": "a", "decoder_text": "a dog"}
    assert preprocessor(row)[1].tolist()[2] == preprocessor.tokenizer.end_token_id
    monkeypatch.setattr(preprocessor, "decoder_sequence_length", 2)
    with pytest.raises(ValueError, match="row 0: 3 tokens, decoder_sequence_length=2"):
        preprocessor(row)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = {name: values[:2] for name, values in ROWS.items()}
        return rows if index == 0 else {**rows, "decoder_text": ["a", ""]}


@pytest.mark.once
def test_streams_name_the_batch_and_its_row(lm):
    message = "In batch 1: `decoder_text` must not be empty.*row 1: ''"
    for data in (Batches(), iter(list(Batches())), Rows()):
        options = {"batch_size": 2} if isinstance(data, Rows) else {}
        with pytest.raises(ValueError, match=message):
            lm.fit(data, shuffle=False, verbose=0, **options)


class Rows:
    """Something to iterate over that is neither a list nor an iterator."""

    def __iter__(self):
        rows = with_row(3, decoder_text="")
        for i in range(4):
            yield {name: values[i] for name, values in rows.items()}


class FailingBatches(keras.utils.PyDataset):
    is_failing = False

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if self.is_failing:
            raise ValueError("no such batch")
        return tasks.SMALL_ROWS


def test_the_first_batch_is_read_before_training_begins():
    """Keras takes the weights out of a model on JAX, and then asks for the first batch."""
    dataset = FailingBatches()
    dataset.is_failing = True
    batches = PyDatasetBatches(dataset, False, lambda *parts, **_: parts)
    with pytest.raises(ValueError, match="no such batch"):
        batches.get_jax_iterator()


@pytest.mark.once
def test_weights_outlive_an_error_in_the_first_batch():
    """On JAX Keras takes them out of a model that is built before it asks for that batch."""
    lm, batches = tasks.small_task(), FailingBatches()
    lm.fit(batches, verbose=0)
    want = [np.array(weight) for weight in lm.get_weights()]
    batches.is_failing = True
    for method in (lm.fit, lm.evaluate, lm.predict):
        with pytest.raises(ValueError, match="no such batch"):
            method(batches, verbose=0)
    for weight, value in zip(lm.get_weights(), want, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.once
def test_files_are_named_when_they_are_read(lm):
    rows = with_row(3, images="no such file.png")
    with pytest.raises(ValueError, match="In row 3, image 0: .*no such file"):
        lm.fit(rows, batch_size=1, verbose=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"y": np.zeros((4, 13))}, ValueError, "`y` must be `None`"),
        ({"sample_weight": np.ones(3)}, ValueError, r"shape \(3,\) and 4 rows"),
        ({"sample_weight": np.ones((4, 1))}, ValueError, r"Received: .* of shape \(4, 1\)"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"validation_split": 0.9}, ValueError, "validation_split=0.9 of 4 rows"),
        ({"x": 3}, TypeError, "Received: 3 "),
        ({"x": Batches(), "batch_size": 2}, ValueError, "batch_size=2, and x of type Batches"),
        ({"x": Rows(), "y": [1]}, ValueError, r"Received: \['y'\], and x of type Rows"),
        ({"x": Rows(), "validation_split": 0.5}, ValueError, "validation_split=0.5 and a data set"),
        ({"x": Batches(), "sample_weight": [1]}, ValueError, r"\['sample_weight'\]"),
    ],
)
def test_options_that_do_not_fit_the_data(lm, options, error, message):
    with pytest.raises(error, match=message):
        lm.fit(**{"x": ROWS, "verbose": 0, **options})
