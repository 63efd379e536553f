"""What rows may be: every form of text and images, and every error."""

import copy

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from preprocessors import (
    MARKER,
    ROWS,
    SIZE,
    assert_equal,
    plain,
    random_image,
    text_only_preprocessor,
    tiny_preprocessor,
)


@pytest.fixture
def preprocessor():
    return tiny_preprocessor()


@pytest.fixture
def text_only():
    return text_only_preprocessor()


# Forms of input -------------------------------------------------------------------------------


def _image_forms(tmp_path):
    """Two rows of one image each in all forms, the first of which is a list of lists."""
    images = [random_image(), random_image(seed=1)]
    arrays = np.stack([np.asarray(image) for image in images])
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return [
        [[images[0]], [images[1]]],
        images,
        tuple(images),
        [images[0], (images[1],)],
        list(arrays),
        [arrays[:1], arrays[1]],
        arrays,
        arrays[:, None],
        arrays.astype("float32"),
        keras.ops.convert_to_tensor(arrays),
        keras.ops.convert_to_tensor(arrays[:, None]),
        paths,
        [str(paths[0]), [paths[1]]],
        np.array([str(path) for path in paths]),
        np.array([[str(path)] for path in paths]),
        tf.constant([str(path) for path in paths]),
    ]


def test_forms_of_images_are_equal(preprocessor, tmp_path):
    first, *others = _image_forms(tmp_path)
    text = [f"cat {MARKER}", f"{MARKER} dog"]
    expected = preprocessor.generate_preprocess({"encoder_text": text, "images": first})
    assert expected["images"].shape == (2, 1, *SIZE, 3)
    for images in others:
        found = preprocessor.generate_preprocess({"encoder_text": text, "images": images})
        assert_equal(found, expected)


def test_forms_of_one_row_are_the_batch_s_row(preprocessor, tmp_path):
    first, second = (np.asarray(random_image(seed=seed)) for seed in range(2))
    path = tmp_path / "image.png"
    PIL.Image.fromarray(first).save(path)
    one = [first, [first], first[None], (first,), str(path), path, [path], random_image()]
    for images in one:
        _assert_is_row(preprocessor, {"encoder_text": f"a {MARKER}", "images": images}, [first])
    for images in ([first, second], np.stack([first, second])):
        x = {"encoder_text": f"a {MARKER}{MARKER}", "images": images}
        _assert_is_row(preprocessor, x, [first, second])


def _assert_is_row(preprocessor, x, images):
    row = preprocessor.generate_preprocess(x)
    batch = {"encoder_text": [x["encoder_text"]], "images": [images]}
    expected = preprocessor.generate_preprocess(batch)
    assert row.keys() == expected.keys()
    for name, array in row.items():
        np.testing.assert_array_equal(array, expected[name][0])


@pytest.mark.parametrize("kind", [tuple, np.array, tf.constant, lambda x: [v.encode() for v in x]])
def test_forms_of_text_are_equal(preprocessor, kind):
    texts = ["a cat", "é 日"]
    expected = plain(preprocessor.generate_preprocess(texts))
    assert plain(preprocessor.generate_preprocess(kind(texts))) == expected
    assert plain(preprocessor.generate_preprocess({"encoder_text": kind(texts)})) == expected


@pytest.mark.parametrize("kind", [str, np.str_, np.array, tf.constant, str.encode])
def test_one_text_gives_arrays_without_a_batch_axis(preprocessor, kind):
    x = {"encoder_text": kind("a cat"), "decoder_text": kind("dog")}
    row = preprocessor(x)
    batch = preprocessor({"encoder_text": ["a cat"], "decoder_text": ["dog"]})
    assert row[0]["encoder_token_ids"].shape == (32,)
    assert plain(row) == keras.tree.map_structure(lambda array: array[0].tolist(), batch)


def test_caller_s_objects_are_unchanged(preprocessor):
    images = [[random_image()], None, np.asarray(random_image())]
    x = {"encoder_text": [MARKER, "a", MARKER], "images": images, "decoder_text": ["a", "b", "c"]}
    before = copy.deepcopy(x)
    preprocessor(x)
    preprocessor.generate_preprocess(x)
    assert list(x) == list(before) and x["images"] is images
    assert [type(value) for value in images] == [list, type(None), np.ndarray]
    assert images[0][0].tobytes() == before["images"][0][0].tobytes()
    np.testing.assert_array_equal(images[2], before["images"][2])
    assert x["encoder_text"] == before["encoder_text"]


# Errors ---------------------------------------------------------------------------------------


def _wrong_inputs():
    image = random_image()
    rows = {"encoder_text": ["a", MARKER, "b"], "images": [None, image, None]}
    return [
        ({**rows, "images": None}, "in row 1: 1 of them and 0 images"),
        ({**rows, "images": [None, [image] * 2, None]}, "in row 1: 1 of them and 2 images"),
        ({**rows, "images": [None, image, image]}, "in row 2: 0 of them and 1 images"),
        ({"encoder_text": f"{MARKER}{MARKER}", "images": image}, "in row 0: 2 of them and 1 im"),
        ({**rows, "images": [None, "no.png", None]}, "In row 1, image 0: .* file 'no.png'"),
        ({**rows, "images": [None, np.zeros((2, 2, 7)), None]}, "In row 1, image 0: .*(2, 2, 7)"),
        ({**rows, "images": [None, image]}, "in rows, .*'encoder_text': 3, 'images': 2}"),
        ({**rows, "images": image}, "in rows, .*'encoder_text': 3, 'images': None}"),
        ({**rows, "images": np.zeros((3, 2, 3))}, "'encoder_text': 3, 'images': None}"),
        ({**rows, "images": np.zeros((2, 5, 7, 3))}, "'encoder_text': 3, 'images': 2}"),
        ({**rows, "decoder_text": ["a", "b"]}, "'images': 3, 'decoder_text': 2}"),
        ({**rows, "decoder_text": "a"}, "'images': 3, 'decoder_text': None}"),
        ({**rows, "images": [None, [[image]], None]}, r"in row 1: a list that holds \[<PIL"),
        ({**rows, "images": [None, [None], None]}, "in row 1: a list that holds None"),
        ({**rows, "images": [None, np.zeros((1, 1, 2, 2, 3)), None]}, "in row 1: an array of shap"),
        ({"encoder_text": "a <image_soft_token>"}, "`<image_soft_token>`.* Received it in row 0"),
        ({"encoder_text": ["a", b"\xff"]}, "UTF-8 where it is bytes. Received in row 1"),
        ({"encoder_text": []}, "at least one row. Received: an empty batch"),
        ({"images": []}, "at least one row. Received: an empty batch"),
        ([], "at least one row. Received: an empty batch"),
        (np.array([], "str"), "at least one row. Received: an empty batch"),
        ({}, "must hold one of .* Received: {}"),
        ({"images": None}, "must hold one of .* Received: {'images': None}"),
        ({"text": "a", "image": image}, r"Received: \['text', 'image'\].*'image' to 'images'"),
    ]


def test_wrong_input_is_named(preprocessor):
    for x, message in _wrong_inputs():
        with pytest.raises(ValueError, match=message):
            preprocessor.generate_preprocess(x)


@pytest.mark.parametrize(
    "x, message",
    [
        (["a", 7], "`encoder_text` .* in row 1: 7 .type <class 'int'>"),
        (["a", None], "in row 1: None"),
        ([["a"], ["b"]], r"in row 0: \['a'\]"),
        (np.array([1, 2]), "in row 0: 1"),
        ({"encoder_text": 1.5}, "in row 0: 1.5"),
        ({"encoder_text": "a", "decoder_text": 3}, "`decoder_text` .* in row 0: 3"),
        ({"encoder_text": ["a", MARKER], "images": [None, 3]}, "In row 1, image 0: .*Received: 3"),
    ],
)
def test_wrong_type_is_named(preprocessor, x, message):
    with pytest.raises(TypeError, match=message):
        preprocessor.generate_preprocess(x)


def test_training_needs_targets_in_decoder_text(preprocessor):
    for x in ("a", ["a", "b"], {"encoder_text": ["a"]}, {"encoder_text": "a", "images": []}):
        with pytest.raises(ValueError, match="`decoder_text` must be given for training"):
            preprocessor(x)
    with pytest.raises(ValueError, match=r"`y` must be `None`.* y of type <class 'list'>"):
        preprocessor(ROWS, ["a", "b"])
