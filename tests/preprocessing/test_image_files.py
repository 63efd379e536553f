"""Images in every form through every entry of the task."""

import base64
import io

import keras
import numpy as np
import PIL.Image
import pytest

import keras_t5gemma2 as k

Q = "<start_of_image>"


@pytest.fixture(scope="module")
def lm():
    lm = k.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy", optimizer=keras.optimizers.SGD(0.0))
    return lm


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The same picture as a list of all forms, and as a list of arrays."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    file = io.BytesIO()
    PIL.Image.fromarray(levels).save(file, "PNG", exif=exif)
    data = file.getvalue()
    path = tmp_path_factory.mktemp("images") / "a.png"
    path.write_bytes(data)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    files = [file, io.BytesIO(data), path.open("rb")]
    dicts = [{"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    images = [data, bytearray(data), memoryview(data), *dicts, *files, url, str(path), path]
    return images, [np.rot90(levels, -1)] * len(images)


def _rows(images):
    return {
        "encoder_text": [Q] * len(images),
        "images": images,
        "decoder_text": ["3"] * len(images),
    }


def _objects(images):
    array = np.empty(len(images), object)
    array[:] = images
    return array


@pytest.mark.once
def test_every_form_through_every_entry(lm, forms):
    images, arrays = forms
    given, want = _rows(images), _rows(arrays)
    texts = lm.generate({**want, "decoder_text": None}, max_new_tokens=3)
    for form in (images, _objects(images), [[image] for image in images]):
        assert (
            lm.generate({**given, "images": form, "decoder_text": None}, max_new_tokens=3) == texts
        )
    dicts = [{"encoder_text": Q, "images": image} for image in images]
    assert lm.generate(dicts, max_new_tokens=3) == texts
    assert lm.generate(None, encoded=lm.encode(dicts), max_new_tokens=3) == texts
    assert (
        "".join(lm.stream({"encoder_text": Q, "images": images[0]}, max_new_tokens=3)) == texts[0]
    )
    scores = np.asarray(lm.score(want))
    np.testing.assert_allclose(np.asarray(lm.score(given)), scores, rtol=1e-5)
    losses = [lm.fit(x, epochs=2, batch_size=11, verbose=0).history["loss"] for x in (given, want)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert lm.evaluate(given, verbose=0) == pytest.approx(lm.evaluate(want, verbose=0), rel=1e-5)
    found = [
        k.evaluate_generation(lm, x, metrics=["exact_match"], max_new_tokens=3, verbose=0)
        for x in (given, want)
    ]
    assert found[0].predictions == found[1].predictions


def test_every_form_through_the_converter_and_the_preprocessor(lm, forms):
    images, arrays = forms
    converter = lm.preprocessor.image_converter
    want = converter(arrays)
    for form in (images, tuple(images), _objects(images)):
        np.testing.assert_array_equal(converter(form), want)
    for image in images:
        np.testing.assert_array_equal(converter(image), want[0])
        np.testing.assert_array_equal(converter.original_and_crops(image)[0], want[0])
    np.testing.assert_array_equal(lm.preprocessor(_rows(images))[0]["images"][:, 0], want)


@pytest.mark.once
def test_precompute_computes_one_picture_once(lm, forms, monkeypatch):
    images, arrays = forms
    features = lm.precompute(_rows(images), verbose=0)["images"]
    want = lm.precompute(_rows(arrays), verbose=0)["images"]
    assert len({id(of_row[0]) for of_row in features}) == 1
    np.testing.assert_allclose(features[0][0].values, want[0][0].values, rtol=1e-5, atol=1e-5)
    rows = [{"encoder_text": Q, "images": image} for image in images]
    assert len({id(row["images"][0]) for row in lm.precompute(rows, verbose=0)}) == 1


def test_bytes_in_string_tensors_are_paths_or_data(lm, forms):
    tf = pytest.importorskip("tensorflow")
    images, arrays = forms
    data, path = images[0], str(images[-2])
    want = lm.preprocessor.image_converter(arrays[0])
    for tensor in (tf.constant([data]), tf.constant([path]), np.array([path])):
        np.testing.assert_array_equal(lm.preprocessor.image_converter(tensor)[0], want)
        x = lm.preprocessor.generate_preprocess({"encoder_text": [Q], "images": tensor})
        np.testing.assert_array_equal(x["images"][0, 0], want)
    for dataset in (tf.data.Dataset.from_tensors([data, path]), tf.data.Dataset.from_tensors(data)):
        mapped = dataset.map(lm.preprocessor.image_converter)
        (pixels,) = mapped.as_numpy_iterator()
        assert mapped.element_spec.shape == pixels.shape
        np.testing.assert_array_equal(np.reshape(pixels, (-1, *want.shape))[-1], want)


def test_what_a_check_can_see_is_refused_before_the_first_step(lm):
    rows = _rows([np.zeros((4, 4), "uint8")] * 5)
    rows["images"] = [*rows["images"][:4], "https://example.org/a.png"]
    before = int(keras.ops.convert_to_numpy(lm.optimizer.iterations))
    with pytest.raises(ValueError, match="In row 4, image 0: .*nothing is downloaded"):
        lm.fit(rows, batch_size=1, verbose=0)
    assert int(keras.ops.convert_to_numpy(lm.optimizer.iterations)) == before
