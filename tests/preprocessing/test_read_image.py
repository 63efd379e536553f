"""Images as files, bytes, file objects and URLs; orientation, and the limit of their pixels."""

import base64
import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from transformers.image_utils import load_image

from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.read_image import read_image

pytestmark = pytest.mark.once
ORIENTATION = 0x0112


def _image(mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    if mode == "I;16":
        return PIL.Image.fromarray(noise[..., 0].astype("uint16") * 257)
    return PIL.Image.fromarray(noise).convert(mode)


def _data(suffix="png", mode="RGB", orientation=None):
    exif = PIL.Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    file = io.BytesIO()
    form = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    _image(mode).save(file, form, exif=exif)
    return file.getvalue()


def _pixels(image):
    return np.asarray(read_image(image))


def _forms(data, path):
    """The same picture in every form."""
    path.write_bytes(data)
    at_the_end = io.BytesIO(data)
    at_the_end.seek(0, 2)
    encoded = base64.b64encode(data).decode()
    return {
        "string": str(path),
        "path": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "dict of bytes": {"bytes": data, "path": None},
        "dict of a path": {"bytes": None, "path": str(path)},
        "dict of both": {"bytes": data, "path": "elsewhere.png"},
        "dict without path": {"bytes": data},
        "file": path.open("rb"),
        "BytesIO": at_the_end,
        "URL": f"data:image/png;base64,{encoded}",
        "URL without padding": f"DATA:image/png;base64,{encoded.rstrip('=')}",
        "URL of percents": "data:," + "".join(f"%{byte:02x}" for byte in data),
    }


def test_every_form_gives_the_same_picture_and_can_be_read_again(tmp_path):
    for orientation in (1, 6):
        data = _data(orientation=orientation)
        want = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))
        for name, image in _forms(data, tmp_path / "picture").items():
            for _ in range(2):
                np.testing.assert_array_equal(_pixels(image), want, err_msg=name)


def test_a_file_object_keeps_its_position():
    file = io.BytesIO(_data())
    file.seek(7)
    _pixels(file)
    assert file.tell() == 7


def test_the_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(_data())
    for image in ("~/a.png", {"bytes": None, "path": "~/a.png"}):
        np.testing.assert_array_equal(_pixels(image), np.asarray(_image()))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_equals_the_reference_loader(tmp_path, suffix, orientation):
    data = _data(suffix, orientation=orientation)
    path = tmp_path / f"turned.{suffix}"
    path.write_bytes(data)
    want = np.asarray(load_image(str(path)))
    assert want.shape == ((20, 30, 3) if orientation < 5 else (30, 20, 3))
    for image in (path, data):
        np.testing.assert_array_equal(_pixels(image), want)


@pytest.mark.parametrize(
    "suffix, mode", [("tif", "L"), ("tif", "I;16"), ("png", "P"), ("png", "I;16"), ("webp", "RGBA")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_other_modes(tmp_path, suffix, mode, orientation):
    """Against Pillow from memory: from a path, 13.0 reads gray TIFFs wrongly."""
    data = _data(suffix, mode, orientation)
    path = tmp_path / f"turned.{suffix}"
    path.write_bytes(data)
    want = _pixels(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))
    plain = _pixels(PIL.Image.open(io.BytesIO(_data(suffix, mode))))
    assert sorted(want.ravel()) == sorted(plain.ravel())
    for image in (path, data):
        np.testing.assert_array_equal(_pixels(image), want)


def test_a_pillow_image_stays_as_it_is():
    opened = PIL.Image.open(io.BytesIO(_data(orientation=6)))
    np.testing.assert_array_equal(_pixels(opened), np.asarray(_image()))


# The limit of pixels --------------------------------------------------------------------------


def _header_of_png(width, height):
    """A PNG of any size whose pixels are not there."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _gif(width, height):
    """Two frames of one pixel on a large screen."""
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + frame * 2 + b";"


@pytest.mark.parametrize("data", [_header_of_png(8001, 8000), _gif(8001, 8000)])
def test_a_bomb_is_refused_before_it_is_decoded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.Image.Image, "load", lambda self: pytest.fail("decoded"))
    path = tmp_path / "bomb"
    path.write_bytes(data)
    opened = PIL.Image.open(io.BytesIO(data))
    for image in (path, data, {"bytes": data}, opened):
        with pytest.raises(ValueError, match="at most max_pixels=64000000 pixels.* 8001x8000"):
            T5Gemma2ImageConverter((4, 4))(image)


def test_the_limit_is_an_option():
    data = _data()
    assert T5Gemma2ImageConverter((4, 4), max_pixels=600)(data).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="max_pixels=599 pixels.* 30x20 = 600 pixels in an image"):
        T5Gemma2ImageConverter((4, 4), max_pixels=599)(data)
    with pytest.raises(ValueError, match="Pillow refuses .* `max_pixels` .*MAX_IMAGE_PIXELS"):
        T5Gemma2ImageConverter((4, 4))(_header_of_png(30_000, 30_000))


def test_what_was_made_in_memory_has_no_limit():
    image = PIL.Image.new("RGB", (30, 20), "red")
    assert T5Gemma2ImageConverter((4, 4), max_pixels=7)(image).shape == (4, 4, 3)


# Errors ---------------------------------------------------------------------------------------


class _Broken:
    def read(self, size=-1):
        raise OSError("the line is dead")


def _text_file(path):
    path.write_text("text")
    return path.open()


def _closed():
    file = io.BytesIO(_data())
    file.close()
    return file


BAD = {
    "http": ("https://example.org/a.png", ValueError, "nothing is downloaded.* URL 'https://ex"),
    "bucket": ("gs://bucket/a.png", ValueError, "nothing is downloaded"),
    "no picture": (b"no picture", ValueError, "cannot read an image of 10 bytes: "),
    "nothing": (b"", ValueError, "cannot read an image of 0 bytes"),
    "cut": (_data()[:-100], ValueError, "cannot read an image of .* bytes: "),
    "no comma": ("data:image/png", ValueError, "a comma before its data. Received: 'data:image"),
    "no base64": ("data:;base64,a$b", ValueError, "must be base64 as it says.* 'data:;base64,a.b'"),
    "empty dict": ({}, TypeError, "must hold `bytes`, `path`, or both. Received: {}"),
    "dict of none": ({"bytes": None, "path": None}, TypeError, "must hold `bytes`"),
    "dict of URLs": ({"url": "a"}, TypeError, "must hold `bytes`.* {'url': 'a'}"),
    "dict of text": ({"bytes": "a"}, TypeError, "`bytes` must be bytes .* bytes='a', path=None"),
    "dict of numbers": ({"path": 7}, TypeError, "`path` a path. Received: bytes=None, path=7"),
    "broken": (_Broken(), ValueError, "cannot read the image in the file object .*line is dead"),
    "closed": (_closed(), ValueError, "cannot read the image in the file object .*closed"),
    "base64 alone": ("A" * 5000, ValueError, "at most 4096 characters.* 5000 chara.* as bytes, or"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_named(kind):
    image, error, message = BAD[kind]
    with pytest.raises(error, match=message):
        read_image(image)


def test_a_text_file_is_refused(tmp_path):
    with (
        _text_file(tmp_path / "a.png") as file,
        pytest.raises(ValueError, match="must be binary.* mode 'rb'"),
    ):
        read_image(file)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_leaves_a_picture_as_it_is(orientation):
    want = np.asarray(_image())
    np.testing.assert_array_equal(_pixels(_data(orientation=orientation)), want)


def test_exif_data_that_cannot_be_read_are_said():
    file = io.BytesIO()
    _image().save(file, "PNG", exif=b"Exif\0\0no exif data")
    with pytest.warns(UserWarning, match="EXIF data of an image of .* bytes cannot be read"):
        pixels = _pixels(file.getvalue())
    np.testing.assert_array_equal(pixels, np.asarray(_image()))
