"""The image converter against the reference's image processor, on every kind of image."""

import io
import itertools
import pathlib

import keras
import keras_hub
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter

SIZE = (13, 17)
ONE_LEVEL = 2 / 255 + 1e-6
ROUNDING = 1e-6


def _reference(image, size=SIZE, **options):
    """The reference's pixels, (images, height, width, 3)."""
    processor = Gemma3ImageProcessorPil(size={"height": size[0], "width": size[1]}, **options)
    pixels = processor(images=image, input_data_format=None)["pixel_values"]
    return np.transpose(np.stack(pixels), (0, 2, 3, 1))


def _noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def _pillow(mode, height=29, width=41):
    if mode in ("I", "F"):
        return PIL.Image.fromarray(_noise(height, width, 0)).convert(mode)
    if mode == "LA":
        return PIL.Image.fromarray(_noise(height, width, 4), "RGBA").convert("LA")
    if mode in ("RGBA", "CMYK"):
        return PIL.Image.frombytes(mode, (width, height), _noise(height, width, 4).tobytes())
    return PIL.Image.fromarray(_noise(height, width)).convert(mode)


def _palette_with_transparency():
    image = _pillow("P")
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def _keyed(mode, key):
    """An image with one transparent level or color instead of an alpha channel."""
    image = _pillow(mode)
    image.putpixel((3, 5), key)
    image.info["transparency"] = key
    return image


PILLOW_IMAGES = {
    **{mode: lambda mode=mode: _pillow(mode) for mode in ("RGB", "L", "LA", "P", "RGBA", "1")},
    **{mode: lambda mode=mode: _pillow(mode) for mode in ("I", "F", "CMYK", "YCbCr", "HSV")},
    "P with transparency": _palette_with_transparency,
    "P with alpha": lambda: _pillow("RGBA").quantize(11),
    "L with transparency": lambda: _keyed("L", 77),
    "RGB with transparency": lambda: _keyed("RGB", (1, 2, 3)),
}


@pytest.mark.parametrize("kind", PILLOW_IMAGES)
def test_pillow_image_equals_reference(kind):
    image = PILLOW_IMAGES[kind]()
    before = image.tobytes()
    pixels = T5Gemma2ImageConverter(SIZE)(image)
    assert pixels.dtype == "float32" and pixels.shape == (*SIZE, 3)
    np.testing.assert_allclose(pixels, _reference(image)[0], atol=ROUNDING)
    assert image.tobytes() == before


def test_transparent_is_white_and_half_transparent_half_white():
    converter = T5Gemma2ImageConverter((1, 1))
    black = [PIL.Image.new("RGBA", (3, 5), (0, 0, 0, alpha)) for alpha in (0, 51, 255)]
    expected = np.array([255, 204, 0]) / 127.5 - 1
    np.testing.assert_allclose(converter(black)[:, 0, 0, 1], expected, atol=ROUNDING)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 500), (3000, 1), (13, 17), (7, 11)])
def test_any_size_equals_reference(height, width):
    image = _noise(height, width)
    expected = _reference(PIL.Image.fromarray(image))[0]
    np.testing.assert_allclose(T5Gemma2ImageConverter(SIZE)(image), expected, atol=ROUNDING)


@pytest.mark.parametrize("file_size", [(300, 700), (1024, 896)])
def test_published_size_equals_reference(file_size):
    image = PIL.Image.fromarray(_noise(*file_size))
    pixels = T5Gemma2ImageConverter()(image)
    np.testing.assert_allclose(pixels, _reference(image, (896, 896))[0], atol=ROUNDING)


ARRAYS = {
    "RGB uint8": (_noise(29, 41), ROUNDING),
    "RGB int32": (_noise(29, 41).astype("int32"), ROUNDING),
    "RGB float32": (_noise(29, 41).astype("float32"), ROUNDING),
    "RGB float64": (_noise(29, 41).astype("float64"), ROUNDING),
    "one channel": (_noise(29, 41, 1), ROUNDING),
    "RGBA uint8": (_noise(29, 41, 4), ONE_LEVEL),
    "not contiguous": (_noise(41, 29).transpose(1, 0, 2)[::-1], ROUNDING),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_array_equals_reference(kind):
    array, tolerance = ARRAYS[kind]
    pixels = T5Gemma2ImageConverter(SIZE)(array)
    np.testing.assert_allclose(pixels, _reference(array)[0], atol=tolerance)


def test_gray_arrays_equal_the_gray_image():
    converter = T5Gemma2ImageConverter(SIZE)
    array = _noise(29, 41, 0)
    expected = _reference(PIL.Image.fromarray(array))[0]
    for same in (array, array[..., None], array.astype("float32"), array.astype("int64")):
        np.testing.assert_allclose(converter(same), expected, atol=ROUNDING)


def test_float_levels_are_rounded():
    levels = np.array([[0.0, 0.4, 0.6, 99.5001, 254.9, 255.0]])
    pixels = T5Gemma2ImageConverter((1, 6))(levels)
    expected = np.array([0, 0, 1, 100, 255, 255]) / 127.5 - 1
    np.testing.assert_allclose(pixels[0, :, 0], expected, atol=ROUNDING)


def test_boolean_array_equals_black_and_white_image():
    array = _noise(29, 41, 0) > 127
    expected = _reference(PIL.Image.fromarray(array))[0]
    np.testing.assert_allclose(T5Gemma2ImageConverter(SIZE)(array), expected, atol=ROUNDING)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_backend_tensor_equals_array(dtype):
    # Multiples of 2 that bfloat16 holds exactly.
    array = _noise(29, 41) & 0xFE
    tensor = keras.ops.convert_to_tensor(array, dtype=dtype)
    converter = T5Gemma2ImageConverter(SIZE)
    np.testing.assert_array_equal(converter(tensor), converter(array))


SIXTEEN_BITS = np.array([[0, 128, 129, 257, 385, 386, 32767, 32768, 65278, 65535]], "uint16")
EIGHT_BITS = np.rint(SIXTEEN_BITS[0] / 257)


def _sixteen_bit_files(folder):
    for name in ("gray.png", "gray.tif"):
        PIL.Image.fromarray(SIXTEEN_BITS).save(folder / name)
        yield folder / name
    pgm = folder / "gray.pgm"
    pgm.write_bytes(b"P5\n10 1\n65535\n" + SIXTEEN_BITS.astype(">u2").tobytes())
    yield pgm


def test_sixteen_bits_are_scaled(tmp_path):
    # The reference lets Pillow cut off every level above 255, which leaves a white image.
    big_endian = PIL.Image.frombytes("I;16B", (10, 1), SIXTEEN_BITS.astype(">u2").tobytes())
    images = [SIXTEEN_BITS, SIXTEEN_BITS[..., None], PIL.Image.fromarray(SIXTEEN_BITS), big_endian]
    images += [np.stack([SIXTEEN_BITS] * 3, axis=-1), *_sixteen_bit_files(tmp_path)]
    for pixels in T5Gemma2ImageConverter((1, 10))(images):
        levels = (pixels[0] + 1) * 127.5
        np.testing.assert_allclose(levels, np.stack([EIGHT_BITS] * 3, axis=-1), atol=1e-4)


def test_sixteen_bit_transparency_is_white(tmp_path):
    PIL.Image.fromarray(SIXTEEN_BITS).save(tmp_path / "keyed.png", transparency=386)
    pixels = T5Gemma2ImageConverter((1, 10))(tmp_path / "keyed.png")
    levels = np.where(SIXTEEN_BITS[0] == 386, 255, EIGHT_BITS)
    np.testing.assert_allclose((pixels[0, :, 0] + 1) * 127.5, levels, atol=1e-4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_file_equals_reference(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    _pillow("RGB").save(path)
    with PIL.Image.open(path) as image:
        expected = _reference(image)[0]
    for name in (path, str(path)):
        pixels = T5Gemma2ImageConverter(SIZE)(name)
        np.testing.assert_allclose(pixels, expected, atol=ROUNDING)


def test_list_and_batch_equal_single_images():
    converter = T5Gemma2ImageConverter(SIZE)
    images = [_noise(29, 41), _pillow("RGBA", 7, 5), _noise(3, 2, 0)]
    pixels = converter(images)
    assert pixels.shape == (3, *SIZE, 3)
    np.testing.assert_array_equal(pixels, np.stack([converter(image) for image in images]))
    batch = np.stack([_noise(5, 7, seed=seed) for seed in range(3)])
    np.testing.assert_array_equal(converter(batch), converter(list(batch)))
    assert converter([]).shape == (0, *SIZE, 3)


@pytest.mark.parametrize("size", [(300, 1111), (700, 300), (300, 301), (100, 999)])
def test_crops_equal_reference(size):
    converter = T5Gemma2ImageConverter(SIZE, pan_and_scan=True)
    image = _noise(*size)
    rule = ("min_crop_size", 256), ("max_num_crops", 4), ("min_ratio_to_activate", 1.2)
    options = {f"pan_and_scan_{name}": value for name, value in rule}
    expected = _reference(PIL.Image.fromarray(image), do_pan_and_scan=True, **options)
    np.testing.assert_allclose(converter.original_and_crops(image), expected, atol=ROUNDING)
    np.testing.assert_array_equal(converter(image), converter.original_and_crops(image)[0])
    without = T5Gemma2ImageConverter(SIZE).original_and_crops(image)
    np.testing.assert_array_equal(without, converter(image)[None])


def _of_nine_levels(level, dtype):
    return np.full((3, 3), 1, dtype) + np.array([level - 1, *[0] * 8], dtype).reshape(3, 3)


@pytest.mark.parametrize(
    "image, message",
    [
        (_of_nine_levels(256, "int32"), r"levels from 1 to 256 in an array of shape \(3, 3\)"),
        (_of_nine_levels(-2, "int8"), "levels from -2 to 1"),
        (_of_nine_levels(255.5, "float32"), "levels from 1.0 to 255.5"),
        (_of_nine_levels(np.nan, "float32"), "levels from nan to nan"),
        (_of_nine_levels(np.inf, "float64"), "levels from 1.0 to inf"),
        (_of_nine_levels(-np.inf, "float16"), "levels from -inf to 1.0"),
        (np.zeros((3, 5, 2)), r"with 1, 3 or 4 channels. Received: an array of shape \(3, 5, 2\)"),
        (np.zeros((3, 5, 7)), r"Received: an array of shape \(3, 5, 7\) and dtype float64"),
        (np.zeros(5), r"Received: an array of shape \(5,\)"),
        (np.zeros((2, 2, 5, 7, 3)), r"Received: an array of shape \(2, 2, 5, 7, 3\)"),
        (np.zeros((0, 5, 3)), r"at least one pixel. Received: an array of shape \(0, 5, 3\)"),
        (PIL.Image.new("RGB", (0, 5)), "at least one pixel. Received: .* of mode RGB and size 0x5"),
        (PIL.Image.new("I", (3, 5), 300), "levels from 300 to 300 in a Pillow image of mode I"),
        (PIL.Image.new("F", (3, 5), -1), "levels from -1.0 to -1.0 in a Pillow image of mode F"),
        (PIL.Image.new("La", (3, 5)), "from mode La to RGB for a Pillow image of mode La and size"),
    ],
)
def test_bad_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        T5Gemma2ImageConverter(SIZE)(image)


@pytest.mark.parametrize(
    "image, message",
    [
        (7, "Received: 7 .type <class 'int'>"),
        ([None], "Received: None"),
        (np.array([["a"]]), "An image must be a path.* Received: .'a'. .type <class 'list'>"),
        (np.zeros((3, 3), "complex64"), "must hold numbers. .* and dtype complex64"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(TypeError, match=message):
        T5Gemma2ImageConverter(SIZE)(image)


def _broken_files(folder):
    data = io.BytesIO()
    _pillow("RGB").save(data, "PNG")
    (folder / "truncated.png").write_bytes(data.getvalue()[:-500])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    names = ["truncated.png", "text.jpg", "empty.png", "folder.png", "missing.png"]
    return [folder / name for name in names]


def test_unreadable_file_is_named(tmp_path):
    converter = T5Gemma2ImageConverter(SIZE)
    for path in _broken_files(tmp_path):
        for name in (path, str(path)):
            with pytest.raises(ValueError, match=f"cannot read the image file '{path}': "):
                converter(name)


def test_truncated_pillow_image_is_named(tmp_path):
    path = _broken_files(tmp_path)[0]
    with (
        PIL.Image.open(path) as image,
        pytest.raises(ValueError, match=f"mode RGB and size 41x29 from '{path}': "),
    ):
        T5Gemma2ImageConverter(SIZE)(image)


def test_decompression_bomb_is_named(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    _pillow("RGB").save(path)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=f"'{path}': .* decompression bomb"):
        T5Gemma2ImageConverter(SIZE)(path)


CHANGED = dict(
    image_size=(5, 7),
    pan_and_scan=True,
    min_crop_size=11,
    max_num_crops=3,
    min_ratio_to_activate=1.7,
    max_pixels=1234,
    name="eyes",
)


def test_every_argument_survives():
    converter = T5Gemma2ImageConverter(**CHANGED)
    config = converter.get_config()
    assert {name: config[name] for name in CHANGED} == CHANGED
    serialized = keras.saving.serialize_keras_object(converter)
    assert serialized["registered_name"] == "keras_t5gemma2>T5Gemma2ImageConverter"
    revived = keras.saving.deserialize_keras_object(serialized)
    assert type(revived) is T5Gemma2ImageConverter
    assert revived.get_config() == config


def test_it_is_an_image_converter_of_keras_hub(tmp_path):
    converter = T5Gemma2ImageConverter(**CHANGED)
    assert isinstance(converter, keras_hub.layers.ImageConverter)
    converter.save_to_preset(tmp_path)
    assert pathlib.Path(tmp_path, "image_converter.json").exists()
    converter.image_size = 3
    assert converter.image_size == (3, 3)
    assert converter(_noise(5, 7)).shape == (3, 3, 3)


@pytest.mark.parametrize("image_size", [None, 0, (5,), (5, -7), (5, 7.0), (5, 7, 3)])
def test_bad_image_size_is_refused(image_size):
    converter = T5Gemma2ImageConverter()
    with pytest.raises(ValueError, match=r"positive number of pixels.* Received: image_size="):
        T5Gemma2ImageConverter(image_size)
    with pytest.raises(ValueError, match=r"positive number of pixels.* Received: image_size="):
        converter.image_size = image_size
    assert converter.image_size == (896, 896)


@pytest.mark.parametrize("name", ["min_crop_size", "max_num_crops", "max_pixels"])
def test_bad_crop_rule_is_refused(name):
    with pytest.raises(ValueError, match=f"Received: {name}=0"):
        T5Gemma2ImageConverter(**{name: 0})


OPTIONS = {
    **{"scale": 1 / 255, "offset": 0.0, "crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True},
    **{"interpolation": "nearest", "antialias": False, "data_format": "channels_first"},
    **{"dtype": "bfloat16", "offset": np.zeros(3)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_cannot_be_chosen_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"`{name}` of a T5Gemma2ImageConverter must be .*{name}="):
        T5Gemma2ImageConverter(SIZE, **{name: OPTIONS[name]})


def test_options_that_say_what_is_done_anyway_are_taken():
    options = dict(scale=1 / 127.5, offset=-1.0, interpolation="bilinear", dtype="float32")
    image = _noise(5, 7)
    want = T5Gemma2ImageConverter(SIZE)(image)
    np.testing.assert_array_equal(T5Gemma2ImageConverter(SIZE, **options)(image), want)
    with pytest.raises(TypeError, match="no argument `scales`"):
        T5Gemma2ImageConverter(SIZE, scales=options["scale"])


def test_pixels_are_float32_whatever_the_policy_of_the_session():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        converter = T5Gemma2ImageConverter(SIZE)
        config = {**converter.get_config(), "dtype": keras.config.dtype_policy().get_config()}
    finally:
        keras.config.set_dtype_policy("float32")
    assert converter(_noise(5, 7)).dtype == "float32"
    # As an earlier release saved it.
    assert T5Gemma2ImageConverter.from_config(config).compute_dtype == "float32"


def test_a_symbolic_input_is_refused_where_it_has_no_meaning():
    converter = T5Gemma2ImageConverter(SIZE)
    if keras.config.backend() == "tensorflow":
        assert converter(keras.Input((5, 7, 3))).shape == (None, *SIZE, 3)
        return
    with pytest.raises(TypeError, match="takes data, not the symbolic `keras.Input`, on the back"):
        converter(keras.Input((5, 7, 3)))


def test_traced_pipeline_gives_the_same_pixels():
    converter = T5Gemma2ImageConverter(SIZE)
    images = np.stack([_noise(5, 7, seed=seed) for seed in range(3)])
    dataset = tf.data.Dataset.from_tensor_slices(images)
    for mapped, shape in itertools.product(
        [(dataset.map(converter), ()), (dataset.batch(2).map(converter), (None,))], [(*SIZE, 3)]
    ):
        data, batch = mapped
        assert data.element_spec.shape.as_list() == [*batch, *shape]
        pixels = np.concatenate([value.reshape(-1, *shape) for value in data.as_numpy_iterator()])
        np.testing.assert_array_equal(pixels, converter(images))
