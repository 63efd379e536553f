"""Any kind of image as 8-bit RGB."""

import os
import warnings

import keras
import numpy as np
import PIL.Image

# 16-bit gray levels in a 32-bit mode: what Pillow makes of these files.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


def read_image(image):
    """`image` as a Pillow image of mode RGB.

    What is transparent becomes white. A file's EXIF orientation is not applied, and of an
    animation the first frame counts.

    Args:
        image: one of

            - a path (string or path-like) of a file that Pillow reads;
            - a Pillow image. Levels of the modes I and F lie in [0, 255], those of the 16-bit
              modes in [0, 65535];
            - an array or tensor of shape (height, width) or (height, width, channels), with 1
              (gray), 3 (RGB) or 4 (RGBA) channels. `bool` is black or white, `uint16` lies in
              [0, 65535], every other dtype, floats too, in [0, 255].

    Raises:
        ValueError: if the file cannot be read, or if a shape or a level is out of these ranges.
        TypeError: if `image` is none of these.

    Example:

    >>> read_image(np.full((2, 3), 65535, "uint16")).getpixel((0, 0))
    (255, 255, 255)
    """
    if isinstance(image, (str, os.PathLike)):
        return _from_file(image)
    if isinstance(image, PIL.Image.Image):
        return _from_pillow(image, _describe(image))
    return _from_array(image)


def check_levels(image):
    """Raises what `read_image` would of the numbers in an array; other images are not looked at.

    Raises:
        ValueError: a float is NaN, infinite or outside of [0, 255].
    """
    if not hasattr(image, "shape") or 0 in image.shape:
        return
    image = to_numpy(image)
    if image.dtype.kind == "f":
        _check_range(image, f"an array of shape {image.shape} and dtype {image.dtype}")


def to_numpy(array):
    """A numpy array with the values of an array or of a tensor of any framework."""
    if keras.ops.is_tensor(array):
        array = keras.ops.convert_to_numpy(array)
    array = np.asarray(array)
    # numpy itself has no bfloat16, and knows that of ml_dtypes as no kind of float.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _from_file(path):
    what = f"the image file '{os.fsdecode(path)}'"
    try:
        image = PIL.Image.open(path)
    except Exception as error:  # Each of Pillow's plugins raises errors of its own kinds.
        raise _unreadable(what, error) from error
    with image:
        return _from_pillow(image, what)


def _from_pillow(image, what):
    try:
        image.load()
    except Exception as error:
        raise _unreadable(what, error) from error
    _check_not_empty(image.size, what)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_gray(image, what)
    try:
        return _on_white(image) if _has_alpha(image) else image.convert("RGB")
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
    return PIL.Image.fromarray(gray).convert("RGB")


def _has_alpha(image):
    """Alpha as the reference's processor sees it: that of a palette's own colors does not count."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _on_white(image):
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image).convert("RGB")


def _from_array(array):
    if not hasattr(array, "shape"):
        raise TypeError(
            "An image must be a path, a Pillow image, or an array or tensor of shape (height, "
            f"width) or (height, width, channels). Received: {array!r} (type {type(array)})"
        )
    array = to_numpy(array)
    what = f"an array of shape {array.shape} and dtype {array.dtype}"
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
    high = _check_range(levels, what)
    if levels.dtype.kind == "f" and high <= 1 and (levels % 1).any():
        warnings.warn(
            "Every level of an image lies in [0, 1], which is as good as black: floats are read "
            f"as [0, 255]. Multiply by 255 if 1 means white. Received: {what}",
            stacklevel=2,
        )
    return np.rint(levels).astype("uint8")


def _check_range(levels, what):
    """The highest level."""
    low, high = levels.min(), levels.max()
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 255):
        raise ValueError(
            "The levels of an image must lie in [0, 255], unless it is of a 16-bit type. "
            f"Received: levels from {low} to {high} in {what}"
        )
    return high


def _check_not_empty(size, what):
    if min(size) < 1:
        raise ValueError(f"An image must have at least one pixel. Received: {what}")


def _unreadable(what, error):
    return ValueError(
        f"Pillow cannot read {what}: {error}. Check that the file is there, complete, and an image"
    )


def _describe(image):
    name = getattr(image, "filename", "")
    file = f" from '{os.fsdecode(name)}'" if name else ""
    return f"a Pillow image of mode {image.mode} and size {image.width}x{image.height}{file}"
