"""Ragged tensors, and tables whose images are read row by row."""

import numpy as np
import pytest
from data_sets import SEVERAL, TEXTS, Frame, Table
from preprocessors import random_image
from tasks import tiny_task


@pytest.fixture(scope="module")
def image_lm():
    lm = tiny_task()
    lm.optimizer.learning_rate = 0.0
    return lm


def ragged_rows():
    """Rows of one image each of different sizes, and of two and none."""
    tf = pytest.importorskip("tensorflow")
    images = [np.asarray(random_image(*size)) for size in ((9, 8), (12, 20))]
    marker = "<start_of_image>"
    one = {"encoder_text": [f"{marker} a", f"the cat {marker}"], "decoder_text": ["yes", "a dog"]}
    some = {**one, "encoder_text": [f"{marker} a {marker}", "the cat"]}
    same = [images[0].tolist(), images[0][::-1].tolist()]
    return [
        ({**one, "images": images}, {**one, "images": tf.ragged.stack(images)}),
        ({**some, "images": [images, []]}, {**some, "images": _nested(tf, [images, []])}),
        (
            {**some, "images": [[images[0], images[0][::-1]], []]},
            {**some, "images": tf.ragged.constant([same, []])},
        ),
        (
            {**some, "images": [[images[0], images[0][::-1]], []]},
            {**some, "images": tf.ragged.constant([same, []], inner_shape=images[0].shape)},
        ),
    ]


def _nested(tf, rows):
    images = tf.ragged.stack([image for row in rows for image in row])
    return tf.RaggedTensor.from_row_lengths(images, [len(row) for row in rows])


@pytest.mark.once
def test_ragged_images_are_those_of_a_list(image_lm):
    """Padding would show: the images would have black borders."""
    lm = image_lm
    for rows, ragged in ragged_rows():
        want = lm.preprocessor(rows)[0]["images"]
        np.testing.assert_array_equal(lm.preprocessor(ragged)[0]["images"], want)
    rows, ragged = ragged_rows()[0]
    assert lm.generate(ragged, max_new_tokens=3) == lm.generate(rows, max_new_tokens=3)
    np.testing.assert_allclose(
        lm.evaluate(ragged, verbose=0)[0], lm.evaluate(rows, verbose=0)[0], 1e-5
    )


@pytest.mark.once
def test_ragged_batches_of_tf_data(image_lm):
    tf, lm = pytest.importorskip("tensorflow"), image_lm
    for rows, ragged in ragged_rows()[:2]:
        dataset = tf.data.Dataset.from_tensor_slices(ragged)
        want = lm.evaluate(rows, verbose=0)[0]
        texts = lm.generate(rows, max_new_tokens=3)
        for data in (dataset.ragged_batch(2), dataset):
            np.testing.assert_allclose(lm.evaluate(data, verbose=0)[0], want, 1e-5)
            assert lm.generate(data, max_new_tokens=3) == texts
    history = lm.fit(dataset.ragged_batch(2), verbose=0).history
    np.testing.assert_allclose(history["loss"][0], want, 1e-5)


@pytest.mark.once
def test_ragged_texts_and_paths(image_lm, tmp_path):
    tf, lm = pytest.importorskip("tensorflow"), image_lm
    targets = tf.ragged.constant([["a dog", "the cat", "yes"], ["a house"]])
    ragged = {"encoder_text": tf.constant(TEXTS), "decoder_text": targets}
    want = lm.evaluate(SEVERAL, verbose=0)[0]
    np.testing.assert_allclose(lm.evaluate(ragged, verbose=0)[0], want, 1e-5)
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        random_image().save(path)
    text = ["<start_of_image> <start_of_image>", "a"]
    rows = {"encoder_text": text, "images": tf.ragged.constant([paths, []])}
    assert lm.generate(rows, max_new_tokens=2) == lm.generate(
        {**rows, "images": [paths, []]}, max_new_tokens=2
    )


@pytest.mark.once
def test_what_cannot_be_unpacked_is_refused_by_name(image_lm):
    tf, torch = pytest.importorskip("tensorflow"), pytest.importorskip("torch")
    pixels = np.zeros((2, 5, 6, 3), "float32")
    text = ["<start_of_image>", "<start_of_image>"]
    for sparse, name in (
        (tf.sparse.from_dense(pixels), "SparseTensor"),
        (torch.as_tensor(pixels).to_sparse(), "Tensor"),
    ):
        with pytest.raises(TypeError, match=f"`images` .*dense or ragged.*a {name}. Make it"):
            image_lm.generate({"encoder_text": text, "images": sparse})
    with pytest.raises(TypeError, match="`encoder_text` .*Received: a SparseTensor"):
        image_lm.fit({"encoder_text": tf.sparse.from_dense(["a", ""]), "decoder_text": ["a", "b"]})
    odd = tf.ragged.constant([[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]])
    with pytest.raises(ValueError, match="rows of one length"):
        image_lm.generate({"encoder_text": ["<start_of_image>"], "images": odd})


# Images in tables -------------------------------------------------------------------------------


IMAGES = {
    "encoder_text": ["<start_of_image> a", "the cat", "<start_of_image>"],
    "images": [random_image(9, 8), None, [random_image(12, 20)]],
    "decoder_text": ["yes", "a dog", "a house"],
}


@pytest.mark.once
def test_images_of_a_table_are_read_with_their_batch(image_lm):
    """Not all at once: they may not fit in memory."""
    lm, table = image_lm, Table(IMAGES)
    want = lm.evaluate(IMAGES, batch_size=1, verbose=0)[0]
    np.testing.assert_allclose(lm.evaluate(table, batch_size=1, verbose=0)[0], want, 1e-5)
    read = {n: table.rows_read.count(n) for n in range(3)}
    assert read[1] == read[2] == 1 and read[0] <= 3
    renamed = Table({"picture" if k == "images" else k: v for k, v in IMAGES.items()})
    options = {"columns": {"picture": "images"}, "batch_size": 1, "verbose": 0}
    np.testing.assert_allclose(lm.evaluate(renamed, **options)[0], want, 1e-5)
    assert renamed.rows_read
    table.rows_read.clear()
    lm.fit(table, batch_size=1, epochs=2, verbose=0)
    order = [n for n in table.rows_read]
    assert (sorted(set(order)) == [0, 1, 2] and order[-3:] != [0, 1, 2]) or order[-6:-3] != [
        0,
        1,
        2,
    ]
    with pytest.raises(ValueError, match="row 1: 0 of them and 1 images"):
        lm.evaluate(Table({**IMAGES, "images": [random_image()] * 3}), batch_size=1, verbose=0)


@pytest.mark.once
def test_precompute_takes_every_form(image_lm):
    lm = image_lm
    want = lm.precompute(IMAGES, verbose=0)["images"]
    rows = [{name: values[i] for name, values in IMAGES.items()} for i in range(3)]
    x = [{name: row[name] for name in ("encoder_text", "images")} for row in rows]
    renamed = {"picture" if k == "images" else k: v for k, v in IMAGES.items()}
    for source, columns in (
        *((Table(IMAGES), None), (Frame(IMAGES), None), (iter(rows), None)),
        *((zip(x, IMAGES["decoder_text"], strict=True), None), (renamed, {"picture": "images"})),
    ):
        got = lm.precompute(source, verbose=0, columns=columns)
        assert list(got) == ["encoder_text", "images", "decoder_text"]
        assert got["decoder_text"] == IMAGES["decoder_text"]
        for of_row, of_want in zip(got["images"], want, strict=True):
            for one, other in zip(of_row, of_want, strict=True):
                np.testing.assert_array_equal(one.values, other.values)
    several = lm.precompute({**IMAGES, "decoder_text": [["a", "b"], "c", "d"]}, verbose=0)
    assert several["decoder_text"][0] == ["a", "b"]
