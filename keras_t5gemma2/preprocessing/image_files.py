"""Images in files, bytes, file objects and `data:` URLs, turned upright as their EXIF data says."""

import base64
import binascii
import contextlib
import io
import os
import re
import urllib.parse

import PIL.Image
import PIL.ImageFile

from keras_t5gemma2.messages import cause, shown, shown_path, warn

# 64 megapixels are 192 MB of RGB.
MAX_PIXELS = 64_000_000

_LONGEST_PATH = 4096
_BYTES = (bytes, bytearray, memoryview)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_file(image):
    """Whether an image is a path, bytes, a file object, a `data:` URL or a dict of `datasets`."""
    return isinstance(image, (str, os.PathLike, dict, *_BYTES)) or hasattr(image, "read")


def check_file(image):
    """Raises what `open_file` would raise, as far as it shows without reading.

    Args:
        image: as of `open_file`.
    """
    _source(image)


@contextlib.contextmanager
def open_file(image, max_pixels):
    """A picture whose `is_file` is true, decoded and turned upright.

    Args:
        image: a path, whose `~` is the home directory; the bytes of a file; an object with a
            method `read` that gives them, which is read from its start and left at its position;
            a `data:` URL; or a dict of `bytes` and `path`, either of which may be `None`, as
            `datasets` has it.
        max_pixels: int. The most pixels; see `check_pixels`.

    Yields:
        A loaded Pillow image, and how an error calls it.

    Raises:
        ValueError: Pillow cannot read it, it has too many pixels, it is the URL of another
            machine, or a file object is not binary.
        TypeError: a dict has other keys.
    """
    source, what = _source(image)
    with _binary_file(source, what) as file, _open(file, what) as opened:
        check_pixels(opened, max_pixels, what)
        load(opened, what)
        _turn_upright(opened, what)
        yield opened, what


def load(image, what):
    """Decodes a Pillow image, if that is not done.

    Raises:
        ValueError: it cannot be decoded.
    """
    try:
        image.load()
    except Exception as error:
        raise _unreadable(what, error) from error


def check_pixels(image, max_pixels, what):
    """Refuses a Pillow image of a file by the size in its header, before it is decoded.

    Raises:
        ValueError: it has more than `max_pixels` pixels.
    """
    width, height = image.size
    if isinstance(image, PIL.ImageFile.ImageFile) and width * height > max_pixels:
        raise ValueError(
            f"The picture of a file must have at most max_pixels={max_pixels} pixels, so that a "
            f"small file cannot fill the memory. Received: {width}x{height} = {width * height} "
            f"pixels in {what}. Make it smaller, or set `max_pixels` of the image converter"
        )


def _source(image):
    """What Pillow is to open, a path or a binary file object, and how an error calls it."""
    if isinstance(image, dict):
        return _source_of_dict(image)
    if isinstance(image, _BYTES):
        return io.BytesIO(image), f"an image of {memoryview(image).nbytes} bytes"
    if isinstance(image, (str, os.PathLike)):
        return _source_of_text(os.fsdecode(image))
    if isinstance(image, io.TextIOBase):
        raise ValueError(
            "A file object of an image must be binary. Received: one of text, "
            f"{shown(image)}. Open it with mode 'rb'"
        )
    return image, f"the image in the file object {shown(image)}"


def _source_of_dict(image):
    if not set(image) <= {"bytes", "path"} or all(value is None for value in image.values()):
        raise TypeError(
            "A dict that stands for an image must hold `bytes`, `path`, or both. Received: "
            f"{shown(image)}"
        )
    data, path = image.get("bytes"), image.get("path")
    if not isinstance(data, (*_BYTES, type(None))) or not isinstance(
        path, (str, os.PathLike, type(None))
    ):
        raise TypeError(
            "Of a dict that stands for an image, `bytes` must be bytes and `path` a path. "
            f"Received: bytes={shown(data)}, path={shown(path)}"
        )
    if data is None:
        return _source(path)
    source, what = _source(data)
    return source, what if path is None else f"{what} of {shown_path(path)}"


def _source_of_text(text):
    if text[:5].lower() == "data:":
        return _source_of_data_url(text)
    if _URL.match(text):
        raise ValueError(
            "An image must be on this machine: nothing is downloaded. Received: the URL "
            f"{shown(text)}. Give its bytes, such as `urllib.request.urlopen(url).read()`, or the "
            "path of the downloaded file"
        )
    if len(text) > _LONGEST_PATH:
        raise ValueError(
            f"The path of an image must have at most {_LONGEST_PATH} characters. Received: "
            f"{len(text)} characters, {shown(text)}. Give an encoded image as bytes, or as a "
            "`data:` URL"
        )
    return os.path.expanduser(text), f"the image file {shown_path(text)}"


def _source_of_data_url(url):
    head, comma, data = url.partition(",")
    what = f"the image in a `data:` URL of {len(url)} characters"
    if not comma:
        raise ValueError(f"A `data:` URL must hold a comma before its data. Received: {shown(url)}")
    data = urllib.parse.unquote_to_bytes(data)
    if head.lower().endswith(";base64"):
        data = b"".join(data.split()).rstrip(b"=")
        try:
            data = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError(
                f"The data of a `data:` URL must be base64 as it says. Received: {shown(url)}, "
                f"which is not: {cause(error)}"
            ) from error
    return io.BytesIO(data), what


@contextlib.contextmanager
def _binary_file(source, what):
    """The open file of a path; a file object is left where it was, to be read again."""
    if isinstance(source, str):
        # Not by Pillow, which maps a file into memory and, in release 13.0, then turns a TIFF
        # wrongly.
        with _opened(source, what) as file:
            yield file
        return
    try:
        position = source.tell() if source.seekable() else None
    except (AttributeError, OSError, ValueError):  # no file in full, or one that is closed
        position = None
    try:
        yield source
    finally:
        if position is not None:
            source.seek(position)


def _opened(path, what):
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise _unreadable(what, error) from error


def _open(file, what):
    try:
        return PIL.Image.open(file)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(
            f"Pillow refuses {what}: {cause(error)}. Make it smaller, or, where you trust it, set "
            "`max_pixels` of the image converter and `PIL.Image.MAX_IMAGE_PIXELS`"
        ) from error
    except Exception as error:  # Each of Pillow's plugins raises errors of its own kinds.
        raise _unreadable(what, error) from error


def _turn_upright(image, what):
    import PIL.ImageOps

    # In place, since a copy forgets its format. Pillow itself has turned a TIFF when it loads it.
    try:
        PIL.ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:
        warn(
            f"The EXIF data of {what} cannot be read ({cause(error)}), so that it is not turned. "
            "Save it anew without them"
        )


def _unreadable(what, error):
    return ValueError(
        f"Pillow cannot read {what}: {cause(error)}. Check that it is there, complete, and an image"
    )
