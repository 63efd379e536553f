"""Images as the vision tower takes them."""

from collections.abc import Sequence
from typing import Any, Self

import keras
import keras_hub
import numpy as np
import PIL.Image

from keras_t5gemma2.arguments import check_constructor, check_flags
from keras_t5gemma2.checkpoints.saving import SavesPresets
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.preprocessing.containers import images_of
from keras_t5gemma2.preprocessing.from_preset import LoadsFromCheckpoints
from keras_t5gemma2.preprocessing.image_files import MAX_PIXELS
from keras_t5gemma2.preprocessing.numpy_call import NumpyCall, check_fixed
from keras_t5gemma2.preprocessing.pan_and_scan import check_at_least_one, pan_and_scan
from keras_t5gemma2.preprocessing.read_image import read_image
from keras_t5gemma2.preprocessing.traced import is_traced, numpy_call
from keras_t5gemma2.registry import presets
from keras_t5gemma2.typing import Image, Tensor

# What is done here, in keras-hub's terms.
_LEVELS = "the vision tower reads levels in [-1, 1]"
_SQUASHED = "every image is squashed with an antialiasing bilinear filter, as the reference does it"
_FIXED = {
    "scale": (1 / 127.5, _LEVELS),
    "offset": (-1.0, _LEVELS),
    "crop_to_aspect_ratio": (False, _SQUASHED),
    "pad_to_aspect_ratio": (False, _SQUASHED),
    "interpolation": ("bilinear", _SQUASHED),
    "antialias": (True, _SQUASHED),
    "data_format": ("channels_last", "arrays hold the channels last on every backend"),
    "dtype": ("float32", "the model casts images to its own dtype"),
}


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2ImageConverter(
    NumpyCall, LoadsFromCheckpoints, SavesPresets, keras_hub.layers.ImageConverter
):
    """Float32 images of one size with values in [-1, 1], from images of any kind and size.

    Every image is made RGB, squashed (never cropped) to `image_size` with an antialiasing
    bilinear filter, rounded to 8 bits and normalized, as the reference's processor does it.
    `read_image` lists the kinds of images: Pillow images, files by path, as bytes, file objects
    or `data:` URLs, which are turned as their EXIF orientation says, and channels-last arrays,
    whose floats lie in [0, 255]. The layer runs on numpy and Pillow with every backend. Its
    levels, filter and dtype cannot be chosen: `scale`, `offset`, `interpolation` and the like are
    refused unless they say what is done anyway.

    Args:
        image_size: int or (height, width), in pixels.
        pan_and_scan: bool. Whether a long image is looked at in parts as well; see
            `original_and_crops` and `pan_and_scan`.
        min_crop_size: int, in pixels. Of Pan and Scan.
        max_num_crops: int. Of Pan and Scan.
        min_ratio_to_activate: float, long side over short side. Of Pan and Scan.
        max_pixels: int. A picture in a file that has more pixels is refused before it is decoded.
            Pillow has a limit of its own, `PIL.Image.MAX_IMAGE_PIXELS`.

    Call arguments:
        inputs: one image, a list of images of any sizes, or an array or tensor of shape
            (batch, height, width, channels).

    Returns:
        A numpy array of shape (height, width, 3) for one image, (batch, height, width, 3) else.

    Raises:
        ValueError: if an image cannot be read or a level is out of range.
        TypeError: if an image is of no known kind.

    Example:

    >>> cls = keras_t5gemma2.T5Gemma2ImageConverter
    >>> converter = cls.from_preset("t5gemma2_tiny", image_size=(4, 4))
    >>> converter([np.full((5, 7, 3), 255, "uint8"), np.zeros((3, 2), "uint8")])[:, 0, 0]
    array([[ 1.,  1.,  1.],
           [-1., -1., -1.]], dtype=float32)
    """

    generation = 2
    backbone_cls = T5Gemma2Backbone
    presets = presets  # those that `from_preset` knows by name

    def __init__(
        self,
        image_size: int | tuple[int, int] = (896, 896),
        pan_and_scan: bool = False,
        min_crop_size: int = 256,
        max_num_crops: int = 4,
        min_ratio_to_activate: float = 1.2,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        check_at_least_one(
            min_crop_size=min_crop_size, max_num_crops=max_num_crops, max_pixels=max_pixels
        )
        check_flags(pan_and_scan=pan_and_scan)
        check_fixed("T5Gemma2ImageConverter", kwargs, _FIXED)
        check_constructor(self, kwargs)
        # The base class's own resizing layer only keeps the size.
        fixed = {name: value for name, (value, _) in _FIXED.items()}
        super().__init__(image_size=_height_and_width(image_size), **fixed, **kwargs)
        self.pan_and_scan = pan_and_scan
        self.min_crop_size = min_crop_size
        self.max_num_crops = max_num_crops
        self.min_ratio_to_activate = min_ratio_to_activate
        self.max_pixels = max_pixels

    @property
    def image_size(self) -> tuple[int, int]:
        """Settable (height, width) of the output, in pixels.

        Example:

        >>> converter = keras_t5gemma2.T5Gemma2ImageConverter.from_preset("t5gemma2_tiny")
        >>> converter.image_size
        (32, 32)
        >>> converter.image_size = 48
        >>> converter.image_size
        (48, 48)
        """
        return (self.resizing.height, self.resizing.width)

    @image_size.setter
    def image_size(self, value: int | tuple[int, int]) -> None:
        self.resizing.height, self.resizing.width = _height_and_width(value)

    def call(self, inputs: Image | Sequence[Image] | Tensor) -> Tensor:
        return self._call_traced(inputs) if is_traced() else self._call_numpy(inputs)

    def original_and_crops(self, image: Image) -> np.ndarray:
        """One image as the encoder sees it: whole, and with Pan and Scan in parts too.

        Args:
            image: one image of any kind.

        Returns:
            A float32 array of shape (1 + crops, height, width, 3), the whole image first.

        Example:

        >>> converter = keras_t5gemma2.T5Gemma2ImageConverter.from_preset("t5gemma2_tiny")
        >>> converter.original_and_crops(np.zeros((40, 30, 3), "uint8")).shape
        (1, 32, 32, 3)
        """
        image = read_image(image, self.max_pixels)
        return np.stack([self._normalize(part) for part in (image, *self._crops(image))])

    def get_config(self) -> dict[str, Any]:
        # The base class's entries are the fixed facts of the constructor.
        config = super(keras_hub.layers.ImageConverter, self).get_config()
        return {
            **config,
            "image_size": self.image_size,
            "pan_and_scan": self.pan_and_scan,
            "min_crop_size": self.min_crop_size,
            "max_num_crops": self.max_num_crops,
            "min_ratio_to_activate": self.min_ratio_to_activate,
            "max_pixels": self.max_pixels,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        # Earlier releases saved the policy of the session, which had no effect.
        return cls(**{name: value for name, value in config.items() if name != "dtype"})

    def _call_numpy(self, inputs):
        inputs = images_of(inputs)
        if isinstance(inputs, list) or getattr(inputs, "ndim", None) == 4:
            return self._convert_all(inputs)
        return self._normalize(read_image(inputs, self.max_pixels))

    def _convert_all(self, images):
        outputs = np.empty((len(images), *self.image_size, 3), "float32")
        for output, image in zip(outputs, images, strict=True):
            output[...] = self._normalize(read_image(image, self.max_pixels))
        return outputs

    def _crops(self, image):
        if not self.pan_and_scan:
            return []
        rules = (self.min_crop_size, self.max_num_crops, self.min_ratio_to_activate)
        # Cut before resizing: the filter must not see over the edge of a crop.
        return [image.crop(box) for box in pan_and_scan(*image.size, *rules)]

    def _normalize(self, image):
        height, width = self.image_size
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
        levels = np.array(image, "float32")
        levels /= np.float32(127.5)
        levels -= np.float32(1)
        return levels

    def _call_traced(self, inputs):
        image_shape = (*self.image_size, 3)
        is_file = inputs.dtype.name == "string"
        batch_shape = inputs.shape if is_file else inputs.shape[: inputs.shape.rank - 3]
        outputs = [("float32", (*batch_shape, *image_shape))]
        return numpy_call(lambda images: [self._call_numpy(images)], [inputs], outputs)[0]


def _height_and_width(image_size):
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size or ())
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(
            "`image_size` must be a positive number of pixels, or a (height, width) pair of such. "
            f"Received: image_size={shown(image_size)}"
        )
    return size
