"""Any kind of image as 8-bit RGB."""

import keras
import numpy as np
import PIL.Image

from keras_t5gemma2.messages import shown, shown_path, warn
from keras_t5gemma2.preprocessing.image_files import (
    MAX_PIXELS,
    check_file,
    check_pixels,
    is_file,
    load,
    open_file,
)
from keras_t5gemma2.preprocessing.image_levels import check_range, doubt_of_bytes, doubt_of_floats

# 16-bit gray levels in a 32-bit mode: what Pillow makes of these files.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


def read_image(image, max_pixels=MAX_PIXELS):
    """`image` as a Pillow image of mode RGB.

    What is transparent becomes white. What is read from a file or from bytes is turned as its
    EXIF orientation says; a Pillow image stays as it is. Of an animation the first frame counts.
    Levels that look like another range than the one below give a warning; see `image_levels`.

    Args:
        image: one of

            - a path (string or path-like, with `~`) of a file that Pillow reads, the bytes of
              such a file (`bytes`, `bytearray` or `memoryview`), a binary file object, which is
              read from its start, a `data:` URL, or a dict of `bytes` and `path` as `datasets`
              has it;
            - a Pillow image. Levels of the modes I and F lie in [0, 255], those of the 16-bit
              modes in [0, 65535];
            - an array or tensor of shape (height, width) or (height, width, channels), with 1
              (gray), 3 (RGB) or 4 (RGBA) channels. `bool` is black or white, `uint16` lies in
              [0, 65535], every other dtype, floats too, in [0, 255].
        max_pixels: int. The most pixels of the picture of a file, refused before it is decoded.

    Raises:
        ValueError: if the file cannot be read or is too large, or if a shape or a level is out of
            these ranges.
        TypeError: if `image` is none of these.

    Example:

    >>> read_image(np.full((2, 3), 65535, "uint16")).getpixel((0, 0))
    (255, 255, 255)
    """
    if is_file(image):
        with open_file(image, max_pixels) as (opened, what):
            rgb, doubt = _from_pillow(opened, what)
    elif isinstance(image, PIL.Image.Image):
        what = _describe(image)
        check_pixels(image, max_pixels, what)
        load(image, what)
        rgb, doubt = _from_pillow(image, what)
    else:
        array, what = _array(image)
        rgb, doubt = _from_array(array, what), _doubt_of(array)
    if doubt := doubt or doubt_of_bytes(rgb):
        warn(f"{doubt}. Received: {what}")
    return rgb


def check_image(image):
    """Raises what `read_image` would, as far as it shows without reading a file.

    Raises:
        ValueError: a float is NaN, infinite or outside of [0, 255], or a URL is not a `data:` URL.
        TypeError: `image` is nothing that `read_image` takes.
    """
    if is_file(image):
        check_file(image)
    elif isinstance(image, PIL.Image.Image):
        return
    elif not hasattr(image, "shape"):
        raise _no_image(image)
    elif 0 not in image.shape:
        array, what = _array(image)
        if array.dtype.kind == "f":
            check_range(array, what)


def to_numpy(array):
    """A numpy array with the values of an array or of a tensor of any framework."""
    if keras.ops.is_tensor(array):
        array = keras.ops.convert_to_numpy(array)
    array = np.asarray(array)
    # numpy itself has no bfloat16, and knows that of ml_dtypes as no kind of float.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _from_pillow(image, what):
    """RGB, and the doubt about deep levels."""
    _check_not_empty(image.size, what)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_gray(image, what)
    try:
        return _on_white(image) if _has_alpha(image) else image.convert("RGB"), None
    except ValueError as error:
        raise ValueError(f"No way leads from mode {image.mode} to RGB for {what}") from error


def _from_deep_gray(image, what):
    """Gray of 16 or 32 bits, whose upper levels Pillow's own conversion would cut off."""
    levels = np.asarray(image)
    if image.mode != "F" and (image.mode != "I" or image.format in _SIXTEEN_BIT_FORMATS):
        levels = levels.astype("uint16")
    gray = _eight_bits(levels, what)
    if (transparent := image.info.get("transparency")) is not None:
        gray[levels == transparent] = 255
    return PIL.Image.fromarray(gray).convert("RGB"), _doubt_of(levels)


def _has_alpha(image):
    """Alpha as the reference's processor sees it: that of a palette's own colors does not count."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _on_white(image):
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image).convert("RGB")


def _array(image):
    """A numpy array, and how an error calls it."""
    if not hasattr(image, "shape"):
        raise _no_image(image)
    array = to_numpy(image)
    return array, f"an array of shape {array.shape} and dtype {array.dtype}"


def _from_array(array, what):
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (1, 3, 4)):
        raise ValueError(
            "An image array must have the shape (height, width) or (height, width, channels) with "
            f"1, 3 or 4 channels. Received: {what}"
        )
    _check_not_empty(array.shape[1::-1], what)
    levels = _eight_bits(array, what)
    if levels.shape[2:] == (1,):
        levels = levels[..., 0]
    image = PIL.Image.fromarray(levels)
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _eight_bits(levels, what):
    """`levels` as uint8, by their dtype alone: a rule by content would misread dark images."""
    if levels.dtype == "uint8":
        return levels
    if levels.dtype == "bool":
        return levels.astype("uint8") * 255
    if levels.dtype == "uint16":
        return ((levels.astype("uint32") + 128) // 257).astype("uint8")
    if levels.dtype.kind not in "iuf":
        raise TypeError(f"An image must hold numbers. Received: {what}")
    check_range(levels, what)
    return np.rint(levels).astype("uint8")


def _doubt_of(levels):
    return doubt_of_floats(levels) if levels.dtype.kind == "f" else None


def _check_not_empty(size, what):
    if min(size) < 1:
        raise ValueError(f"An image must have at least one pixel. Received: {what}")


def _no_image(image):
    return TypeError(
        "An image must be a path, bytes, a file object, a `data:` URL, a dict of `bytes` and "
        "`path`, a Pillow image, or an array or tensor of shape (height, width) or (height, width, "
        f"channels). Received: {shown(image)} (type {type(image)})"
    )


def _describe(image):
    name = getattr(image, "filename", "")
    file = f" from {shown_path(name)}" if name else ""
    return f"a Pillow image of mode {image.mode} and size {image.width}x{image.height}{file}"
