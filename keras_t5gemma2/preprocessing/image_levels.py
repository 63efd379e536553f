"""Whether an image's levels lie in the range that its dtype says, or are as good as black."""

import numpy as np
import PIL.Image

# Of the pixels: how many may be brighter than the range, and how many must make use of it.
_EXTREME = 0.02
_USED = 0.05
_SAMPLE = (128, 128)


def check_range(levels, what):
    """Refuses levels that are not in [0, 255].

    Args:
        levels: array of numbers.
        what: string, how an error calls the image.

    Raises:
        ValueError: a level is NaN, infinite or outside of [0, 255].
    """
    low, high = levels.min(), levels.max()
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 255):
        raise ValueError(
            "The levels of an image must lie in [0, 255], unless it is of a 16-bit type. "
            f"Received: levels from {low} to {high} in {what}. Scale and round them first"
        )


def doubt_of_floats(levels):
    """What speaks against floats in [0, 255], or `None`.

    Floats look like [0, 1] where at least 98 of 100 pixels are at most 1.5 (a sharp filter goes
    over 1 at edges), and more pixels are fractions between 0 and 1 than lie above. A black image
    has no fractions, and thin bright lines on black have few.

    Args:
        levels: array of floats of shape (height, width) or (height, width, channels).
    """
    brightest = _colors(levels).max(-1)
    above = np.count_nonzero(brightest > 1.5)
    fractions = np.count_nonzero((brightest > 0) & (brightest < 1))
    if above <= _few(brightest.size) and fractions > above:
        return _sentence("floats are read as [0, 255]", 1)
    return None


def doubt_of_bytes(image):
    """What speaks against levels in [0, 255], or `None`.

    Levels look like [0, 1] or [0, 16] where at most 2 of 100 pixels, or one, are brighter in any
    color, at least 5 of 100 are in the upper half of that range, and no single level has more than
    95 of 100. So there is no doubt about a black image, nor about one of a single dark color, the
    noise of a dark one, bright points or thin lines on black, or a night scene of which more than
    a fiftieth is lit.

    Args:
        image: Pillow image of mode L or RGB.
    """
    if image.width * image.height > _SAMPLE[0] * _SAMPLE[1]:
        image = image.resize(_SAMPLE, PIL.Image.Resampling.NEAREST)  # a sample of its pixels
    count = image.width * image.height
    histograms = np.reshape(image.histogram(), (-1, 256))
    for high in (1, 16):
        brighter = histograms[:, high + 1 :].sum(-1).max()
        used = histograms[:, high // 2 + 1 : high + 1].sum(-1)
        differing = count - histograms.max(-1)
        is_used = np.minimum(used, differing).max() >= _USED * count
        if brighter <= _few(count) and is_used:
            return _sentence("8-bit levels are read as [0, 255], 16-bit ones as [0, 65535]", high)
    return None


def _few(count):
    return max(1, _EXTREME * count)


def _colors(levels):
    """Without alpha, (height, width, 1 or 3)."""
    return levels[..., None] if levels.ndim == 2 else levels[..., :3]


def _sentence(rule, high):
    return (
        f"The levels of an image look like [0, {high}], which is as good as black: {rule}. "
        f"Multiply them so that white is the highest level"
    )
