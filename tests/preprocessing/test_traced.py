"""The preprocessor in a `tf.data` pipeline gives what it gives outside of one."""

import functools

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


# Traced pipelines -----------------------------------------------------------------------------


def _dataset():
    images = np.stack(
        [
            np.stack([np.asarray(random_image(seed=i)), np.asarray(random_image())])
            for i in (1, 2, 3)
        ]
    )
    return {
        "encoder_text": [f"{MARKER}{MARKER} cat é", f"a {MARKER} b {MARKER}", f"{MARKER} {MARKER}"],
        "images": images,
        "decoder_text": ["a", "dog", "a red bee and a house and a flower"],
    }


def _shapes(spec):
    return keras.tree.map_structure(lambda leaf: tuple(leaf.shape), spec)


def _traced(preprocess, x, batch_size):
    dataset = tf.data.Dataset.from_tensor_slices(x)
    dataset = dataset.batch(batch_size) if batch_size else dataset
    return dataset.map(preprocess)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("part", ["text", "image", "images", "paths"])
@pytest.mark.parametrize("training", [False, True])
def test_traced_pipeline_gives_the_same_arrays(preprocessor, tmp_path, batch_size, part, training):
    x = _dataset()
    if part == "text":
        x = {**{name: x[name] for name in ("encoder_text", "decoder_text")}}
        x["encoder_text"] = [text.replace(MARKER, "") for text in x["encoder_text"]]
    if part in ("image", "paths"):
        x["images"] = x["images"][:, 0]
        x["encoder_text"] = [text.replace(MARKER, "", 1) for text in x["encoder_text"]]
    if part == "paths":
        paths = [tmp_path / f"{number}.png" for number in range(3)]
        for path, image in zip(paths, x["images"], strict=True):
            PIL.Image.fromarray(image).save(path)
        x["images"] = list(map(str, paths))
    preprocess = preprocessor if training else preprocessor.generate_preprocess
    dataset = _traced(preprocess, x, batch_size)
    expected = preprocess({name: np.array(value) for name, value in x.items()})
    _check_static_sizes(dataset, expected, batch_size, are_tokens_known=False)
    join = np.concatenate if batch_size else np.stack
    found = keras.tree.map_structure(lambda *leaves: join(leaves), *dataset.as_numpy_iterator())
    assert_equal(found, expected)


def _check_static_sizes(dataset, expected, batch_size, are_tokens_known):
    """All are known but the rows of a batch and, where no length is given, the tokens."""
    axes = 1 if batch_size else 0

    def check(leaf, array):
        leaf.shape.assert_is_compatible_with((None,) * axes + array.shape[1:])
        is_of_tokens = array.ndim == 2
        wanted = [None] if is_of_tokens and not are_tokens_known else list(array.shape[1:])
        assert leaf.shape[axes:].as_list() == wanted

    keras.tree.map_structure(check, dataset.element_spec, expected)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_traced_pipeline_with_given_lengths(preprocessor, batch_size):
    lengths = {"encoder_sequence_length": 23, "decoder_sequence_length": 9}
    x = {"encoder_text": ["a", "the cat", "is"], "decoder_text": ["a", "a red bee", "dog"]}
    for preprocess in (preprocessor, preprocessor.generate_preprocess):
        dataset = _traced(functools.partial(preprocess, **lengths), x, batch_size)
        _check_static_sizes(dataset, preprocess(x, **lengths), batch_size, are_tokens_known=True)
        found = next(dataset.as_numpy_iterator())
        expected = preprocess(
            {name: value[0] if batch_size is None else value[:2] for name, value in x.items()},
            **lengths,
        )
        assert_equal(found, expected)


def test_traced_pipeline_pads_to_the_longest_row_of_a_batch(preprocessor):
    x = {"encoder_text": ["a", "the cat", "is " * 60], "decoder_text": ["a"] * 3}
    shapes = [x["encoder_token_ids"].shape for x, *_ in _traced(preprocessor, x, 2)]
    assert shapes == [(2, 32), (1, 64)]


def test_traced_pipeline_with_pan_and_scan():
    preprocessor = tiny_preprocessor(pan_and_scan=True)
    x = {"encoder_text": [MARKER, MARKER], "images": np.zeros((2, 300, 700, 3), "uint8")}
    dataset = _traced(preprocessor.generate_preprocess, x, 2)
    assert dataset.element_spec["images"].shape.as_list() == [None, None, *SIZE, 3]
    found = next(dataset.as_numpy_iterator())
    assert found["images"].shape == (2, 3, *SIZE, 3)
    expected = preprocessor.generate_preprocess(x)
    assert_equal(found, expected)


def test_traced_pipeline_with_weights(preprocessor):
    weights = np.array([0.5, 3.0], "float32")
    dataset = tf.data.Dataset.from_tensor_slices((ROWS, weights)).batch(2)
    dataset = dataset.map(lambda x, weight: preprocessor(x, sample_weight=weight))
    found = next(dataset.as_numpy_iterator())
    expected = preprocessor(ROWS, sample_weight=weights)
    assert_equal(found, expected)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_traced_pipeline_of_images_alone(preprocessor, batch_size):
    images = _dataset()["images"]
    dataset = _traced(preprocessor.generate_preprocess, {"images": images}, batch_size)
    batch = [None] if batch_size else []
    assert dataset.element_spec["images"].shape.as_list() == [*batch, 2, *SIZE, 3]
    part = images[:2] if batch_size else images[0]
    expected = preprocessor.generate_preprocess({"images": part})
    assert_equal(next(dataset.as_numpy_iterator()), expected)


def test_traced_pipeline_of_bare_strings(preprocessor):
    dataset = _traced(preprocessor.generate_preprocess, ["a cat", "dog"], 2)
    found = next(dataset.as_numpy_iterator())
    expected = preprocessor.generate_preprocess(["a cat", "dog"])
    assert_equal(found, expected)


def test_traced_pipeline_names_the_row(preprocessor):
    dataset = _traced(preprocessor.generate_preprocess, ["a cat", f"dog {MARKER}"], 2)
    with pytest.raises(tf.errors.OpError, match="in row 1: 1 of them and 0 images"):
        next(dataset.as_numpy_iterator())
    ragged = {"encoder_text": tf.ragged.constant([["a"], ["b", "c"]])}
    with pytest.raises(ValueError, match="encoder_text of type RaggedTensor"):
        _traced(preprocessor.generate_preprocess, ragged, 2)
    weighted = {"encoder_text": ["a"], "sample_weight": [1.0]}
    with pytest.warns(UserWarning, match=r"the columns \['sample_weight'\]"):
        _traced(preprocessor.generate_preprocess, weighted, 2)
