"""`fit` on the same rows from every source of data: the same loss."""

import functools
import warnings

import keras
import numpy as np
import pytest
from preprocessors import random_image
from tasks import tiny_task

from keras_t5gemma2.training.sources import batches_of, reading

MIXED = {
    "encoder_text": [
        "<start_of_image> is this a dog",
        "the cat",
        "a bee<start_of_image>and<start_of_image>",
        "what is in the garden",
    ],
    "images": [
        random_image(9, 8),
        None,
        [random_image(30, 20, seed=1), random_image(28, 28, seed=2)],
        [],
    ],
    "decoder_text": ["yes", "a dog", "a house", "a red bee and a house"],
}
# One image of one size in each row: what can be stacked.
EQUAL = {
    **MIXED,
    "encoder_text": [f"<start_of_image> {word}" for word in ("a", "the cat", "dog", "is it red")],
    "images": np.stack([np.asarray(random_image(9, 8, seed=i)) for i in range(4)]),
}


SIDES = ("encoder", "decoder")


def batch(rows, index):
    return {name: values[2 * index : 2 * index + 2] for name, values in rows.items()}


def row_dicts(rows):
    return [{name: values[i] for name, values in rows.items()} for i in range(4)]


class Batches(keras.utils.PyDataset):
    def __init__(self, get, **options):
        super().__init__(**options)
        self.get = get

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.get(index)


@pytest.fixture(scope="module")
def lm():
    """A task whose weights stay as they are in training: losses can be compared."""
    lm = tiny_task()
    lm.optimizer.learning_rate = 0.0
    return lm


@pytest.fixture(scope="module")
def losses(lm):
    """The loss on the plain dict, by its name."""
    return {
        name: lm.fit(rows, batch_size=2, shuffle=False, verbose=0).history["loss"][0]
        for name, rows in {"mixed": MIXED, "equal": EQUAL}.items()
    }


def check(lm, source, want, **options):
    """Training and validation see the same rows."""
    history = lm.fit(source(), validation_data=source(), shuffle=False, verbose=0, **options)
    got = [history.history[name][0] for name in ("loss", "val_loss")]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def check_evaluate(lm, source, want, **options):
    got = lm.evaluate(source, verbose=0, **options)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.once
def test_the_losses_of_the_two_sets_differ(losses):
    assert abs(losses["mixed"] - losses["equal"]) > 1e-3


@pytest.mark.once
def test_rows_in_memory(lm, losses):
    check(lm, lambda: row_dicts(MIXED), losses["mixed"], batch_size=2)
    tensors = {**EQUAL, "images": keras.ops.convert_to_tensor(EQUAL["images"])}
    check_evaluate(lm, tensors, losses["equal"], batch_size=2)
    assert lm.predict(MIXED, batch_size=2, verbose=0).shape[:2] == (4, 13)


@pytest.mark.once
def test_py_datasets(lm, losses):
    check(lm, lambda: Batches(lambda i: batch(MIXED, i), workers=2), losses["mixed"])
    done = Batches(lambda i: lm.preprocessor(batch(MIXED, i)))
    check_evaluate(lm, done, losses["mixed"])


@pytest.mark.once
def test_batches_of_other_lengths(lm, losses):
    """The second batch cut to its tokens: what is cut off is padding, so the loss is the same."""

    def cut(index):
        x, y, weights = lm.preprocessor(batch(MIXED, index))
        if index == 0:
            return x, y, weights
        lengths = {side: int(np.sum(x[f"{side}_padding_mask"], 1).max()) for side in SIDES}
        x = {
            name: value[:, : lengths[name.partition("_")[0]]] if name.startswith(SIDES) else value
            for name, value in x.items()
        }
        end = lengths["decoder"]
        return x, y[:, :end], weights[:, :end]

    assert cut(1)[1].shape[1] < cut(0)[1].shape[1]
    check(lm, lambda: Batches(cut), losses["mixed"])


GENERATORS = {
    "batches": (lambda: (batch(MIXED, i % 2) for i in range(2)), "mixed"),
    "tuples": (lambda: ((batch(MIXED, i), None, np.ones(2)) for i in range(2)), "mixed"),
    "lists of rows": (lambda: (row_dicts(MIXED)[2 * i : 2 * i + 2] for i in range(2)), "mixed"),
    "rows": (lambda: (row for row in row_dicts(MIXED)), "mixed"),
    "arrays": (lambda f: (f(batch(MIXED, i)) for i in range(2)), "mixed"),
    "rows of arrays": (lambda f: (f(row) for row in row_dicts(EQUAL)), "equal"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", GENERATORS)
def test_generators(lm, losses, name):
    source, rows = GENERATORS[name]
    arguments = [lm.preprocessor] if "arrays" in name else []
    options = {"batch_size": 2} if name.startswith("rows") else {}
    check_evaluate(lm, source(*arguments), losses[rows], **options)


@pytest.mark.once
def test_a_generator_is_read_once(lm, losses):
    """An epoch of it is a number of steps, and no batch is lost before the first."""
    batches = (batch(MIXED, i % 2) for i in range(4))
    got = lm.fit(batches, epochs=2, steps_per_epoch=2, verbose=0).history["loss"]
    np.testing.assert_allclose(got, losses["mixed"], rtol=1e-5)
    with pytest.raises(ValueError, match="must not be empty. Received: a generator"):
        lm.evaluate(batches, verbose=0)
    source, _ = GENERATORS["batches"]
    assert lm.predict(source(), verbose=0).shape[:2] == (4, 13)
    with pytest.raises(ValueError, match="generator can be read once.*`steps_per_epoch`"):
        lm.fit(source(), epochs=2, verbose=0)


@pytest.mark.once
def test_arrays_in_memory(lm, losses):
    """With the preprocessor attached and without; images may be missing."""
    x, labels, weights = lm.preprocessor(EQUAL)
    check_evaluate(lm, x, losses["equal"], y=labels, sample_weight=weights, batch_size=2)
    got, want = lm.test_on_batch(x, labels, weights), lm.test_on_batch(EQUAL)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    preprocessor, lm.preprocessor = lm.preprocessor, None
    try:
        check(lm, lambda: (x, labels, weights), losses["equal"], batch_size=2)
        no_images = {name: value for name, value in x.items() if name != "images"}
        assert np.isfinite(lm.evaluate(no_images, labels, batch_size=2, verbose=0)[0])
        with pytest.raises(ValueError, match="preprocessor=None, and data of type"):
            lm.fit(MIXED, verbose=0)
    finally:
        lm.preprocessor = preprocessor


@pytest.mark.once
def test_tf_data(lm, losses, tmp_path):
    tf = pytest.importorskip("tensorflow")
    rows = tf.data.Dataset.from_tensor_slices(EQUAL)
    check(lm, lambda: rows.batch(2), losses["equal"])
    check_evaluate(lm, rows, losses["equal"], batch_size=2)
    check_evaluate(lm, rows.batch(2).map(lm.preprocessor), losses["equal"])
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, EQUAL["images"], strict=True):
        keras.utils.save_img(path, image, scale=False)
    of_files = tf.data.Dataset.from_tensor_slices({**EQUAL, "images": paths})
    check_evaluate(lm, of_files.batch(2), losses["equal"])


@pytest.mark.slow
@pytest.mark.once
def test_grain(lm, losses):
    grain = pytest.importorskip("grain")
    mixed, equal = (grain.MapDataset.source(row_dicts(rows)) for rows in (MIXED, EQUAL))
    check(lm, lambda: mixed, losses["mixed"], batch_size=2)
    with warnings.catch_warnings():  # nothing has run out: this is how an epoch ends
        warnings.filterwarnings("error", message="Your input ran out of data")
        unknown = mixed.to_iter_dataset()
        got = lm.fit(unknown, batch_size=2, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(got, losses["mixed"], rtol=1e-5)
    check_evaluate(lm, equal.batch(2).to_iter_dataset(), losses["equal"])
    check_evaluate(lm, equal.batch(2).map(lm.preprocessor), losses["equal"])
    check_evaluate(lm, equal.map(lm.preprocessor).batch(2), losses["equal"])


@pytest.mark.slow
@pytest.mark.once
def test_torch_data_loaders(lm, losses):
    torch = pytest.importorskip("torch")
    loader = functools.partial(torch.utils.data.DataLoader, batch_size=2)
    equal = [{**row, "images": torch.as_tensor(row["images"])} for row in row_dicts(EQUAL)]
    check(lm, lambda: loader(equal), losses["equal"])
    check_evaluate(lm, loader(row_dicts(MIXED), collate_fn=list), losses["mixed"])
    arrays = [lm.preprocessor(row) for row in row_dicts(EQUAL)]
    check_evaluate(lm, loader(arrays), losses["equal"])


def test_shuffled_rows_are_each_seen_once(lm):
    """In a new order for each epoch, with weights of their own."""
    numbers = np.arange(20)
    arrays, labels, _ = lm.preprocessor(EQUAL)
    arrays = {name: np.repeat(array, 5, axis=0) for name, array in arrays.items()}
    data = batches_of(arrays, np.repeat(labels, 5, axis=0), numbers, 3, True, lm._preparation({}))
    epochs = []
    for data.epoch in range(2):
        epochs.append([weights[:, 0].tolist() for _, _, weights in data])
    assert [len(rows) for rows in epochs[0]] == [3] * 6 + [2]
    first, second = ([n for rows in epoch for n in rows] for epoch in epochs)
    assert sorted(first) == sorted(second) == numbers.tolist()
    assert first != second


@pytest.mark.once
def test_batches_without_images_train_quietly(lm):
    """That the projector of images has no gradient then is no reason to warn; all else is."""
    texts = {"encoder_text": ["the cat", "a"], "decoder_text": ["a dog", "the"]}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Gradients do not exist")
        assert np.isfinite(lm.fit(texts, batch_size=2, verbose=0).history["loss"][0])
    with reading(), pytest.warns(UserWarning, match="decoder/norm"):
        names = "['vision/projector/norm/scale', 'decoder/norm/scale'] when minimizing the loss."
        warnings.warn(f"Gradients do not exist for variables {names}", stacklevel=1)


def test_images_are_filled_up_to_few_sizes(lm):
    rows = {
        "encoder_text": ["<start_of_image>" * n for n in (1, 3)],
        "images": [[image] * n for image, n in ((random_image(), 1), (random_image(), 3))],
        "decoder_text": ["a", "b"],
    }
    lm.preprocessor.encoder_sequence_length = 64
    try:
        assert lm.preprocessor(rows)[0]["images"].shape[1] == 3
        x, _, _ = lm._preparation()(rows)
    finally:
        lm.preprocessor.encoder_sequence_length = 40
    assert x["images"].shape == (2, 4, 28, 28, 3) and not x["images"][:, 3:].any()
    assert x["image_features"].shape == (2, 0, 4, 24)
