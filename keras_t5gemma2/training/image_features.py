"""What the frozen vision tower makes of a data set's images, computed once for all epochs."""

import hashlib
import os

import keras
import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning
from keras_t5gemma2.preprocessing.dialogues import Dialogue
from keras_t5gemma2.preprocessing.encoding import naming_image
from keras_t5gemma2.preprocessing.image_features import ImageFeatures
from keras_t5gemma2.preprocessing.rows import are_row_dicts
from keras_t5gemma2.preprocessing.sources import read_rows
from keras_t5gemma2.sharding.batch import of_rows
from keras_t5gemma2.training.preparation import with_each_target

_IMAGES_AT_A_TIME = 8


def with_features(task, x, batch_size, verbose, columns=None):
    """`x` with `ImageFeatures` for its images; see `T5Gemma2Seq2SeqLM.precompute`."""
    _check_task(task)
    batch_size = checked(batch_size=batch_size) or _IMAGES_AT_A_TIME
    reads = {"several_targets": True, "reads_y": True, "answers": True}
    rows, is_single = read_rows(x, Columns(columns), **reads)
    if any(isinstance(row.encoder_text, Dialogue) for row in rows):
        raise ValueError(
            "`precompute` takes the images of texts, not those of dialogues. Received: messages. "
            "Give `ImageFeatures`, from `precompute` of the images alone, as their images"
        )
    with one_warning(Cuts(is_silent=True)):  # no text is read here
        task.preprocessor.check_rows(with_each_target(rows)[0], training=False)
    progress = keras.utils.Progbar(sum(len(row.images) for row in rows), verbose=verbose)
    memory = _Features(task, batch_size)
    places = []
    for row in rows:
        places.append([])
        for number, image in enumerate(row.images):
            with naming_image(row, number):
                places[-1].append(memory.add(image))
            progress.add(1)
    images = [[memory.features(place) for place in of_row] for of_row in places]
    if columns is None and are_row_dicts(x):
        return [{**row, "images": of_row} for row, of_row in zip(x, images, strict=True)]
    if columns is None and isinstance(x, dict):
        return {**x, "images": images[0] if is_single else images}
    return _table(rows, images)


def _table(rows, images):
    """A dict of lists, of what came in another form."""
    targets = [list(t) if isinstance(t := row.decoder_text, tuple) else t for row in rows]
    table = {"encoder_text": [row.encoder_text for row in rows], "images": images}
    table["decoder_text"] = targets
    return {name: values for name, values in table.items() if any(v is not None for v in values)}


class _Features:
    """The features of each different image or crop, computed `batch_size` at a time."""

    def __init__(self, task, batch_size):
        vision = task.backbone.vision
        self.converter = task.preprocessor.image_converter
        self.batch_size = batch_size
        size = task.backbone.config.vision.image_size
        # A model of its own, so that each backend compiles it in its way.
        self.tower = keras.Sequential([keras.Input((size, size, 3)), vision.tower])
        # Half precision is kept in two bytes: float16 holds what bfloat16 has after a norm.
        is_half = vision.compute_dtype in ("float16", "bfloat16")
        self.dtype = "float16" if is_half else "float32"
        self.by_pixels = {}  # digest of one part to its features, `None` while it waits
        self.waiting = {}  # digest to pixels
        self.by_image = {}  # path or object to the digests of its parts
        self.made = {}  # digests of the parts of an image to its `ImageFeatures`

    def add(self, image):
        """Where the features of an image will be."""
        if isinstance(image, ImageFeatures):
            return image
        # The rows hold every object for as long as this lives: no id comes twice.
        key = os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image)
        if key not in self.by_image:
            parts = self.converter.original_and_crops(image)
            self.by_image[key] = tuple(map(self._add_part, parts))
        return self.by_image[key]

    def features(self, place):
        """The `ImageFeatures` of what `add` gave; the same object for the same image."""
        if isinstance(place, ImageFeatures):
            return place
        if self.waiting:
            self._compute()
        if place not in self.made:
            self.made[place] = ImageFeatures(np.stack([self.by_pixels[part] for part in place]))
        return self.made[place]

    def _add_part(self, pixels):
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        if digest not in self.by_pixels:
            self.by_pixels[digest] = None
            self.waiting[digest] = pixels
            if len(self.waiting) == self.batch_size:
                self._compute()
        return digest

    def _compute(self):
        pixels = np.stack(list(self.waiting.values()))
        # Always as many, so that one program is compiled.
        pixels = np.pad(pixels, [(0, self.batch_size - len(pixels)), (0, 0), (0, 0), (0, 0)])
        features = keras.ops.convert_to_numpy(of_rows(self.tower.predict_on_batch, pixels))
        features = features.astype(self.dtype)
        self.by_pixels.update(zip(self.waiting, features, strict=False))
        self.waiting = {}


def _check_task(task):
    if task.backbone.vision is None or task.preprocessor is None:
        raise ValueError(
            "Features of images need a vision tower and a preprocessor. Received: vision="
            f"{task.backbone.vision}, preprocessor={shown(task.preprocessor)}"
        )
    if task.backbone.vision.tower.trainable_weights:
        raise ValueError(
            "Features can be kept of a frozen vision tower only: training it would change them. "
            "Received: backbone.vision.tower.trainable=True. Set it to False, or train on images"
        )
