"""Keys and values as numbers times scales, of which there is one for each token and head."""

from typing import Any, NamedTuple

from keras import ops


class Scaled(NamedTuple):
    """Used like a tensor (B, K, S, H) of keys or values, which is `numbers * scales`.

    The product is never formed: scores are those of the numbers, times the scales, and a sum of
    values weighted by w is that of the numbers weighted by w times the scales.
    """

    numbers: Any  # (B, K, S, H)
    scales: Any  # (B, K, S, 1) float32; of more heads than the numbers where these are shared

    @property
    def shape(self):
        return self.numbers.shape


def numbers_and_scales(x):
    """Both of `Scaled`; of a tensor the tensor and `None`."""
    return x if isinstance(x, Scaled) else (x, None)


def times(x, scales):
    """`Scaled` of a tensor or `Scaled`, times scales (B, K, S, 1)."""
    numbers, own = numbers_and_scales(x)
    return Scaled(numbers, scales if own is None else own * scales)


def plain(x, dtype):
    """A tensor or `Scaled` as a tensor."""
    numbers, scales = numbers_and_scales(x)
    return x if scales is None else ops.cast(ops.cast(numbers, "float32") * scales, dtype)


def rounded(x):
    """`Scaled` int8 of (B, K, S, H), in which the largest of a token and head is 127."""
    x = ops.cast(x, "float32")
    scales = ops.max(ops.abs(x), axis=-1, keepdims=True) / 127.0
    numbers = ops.round(x / ops.maximum(scales, 1e-30))  # all of a token may be zeros
    return Scaled(ops.cast(numbers, "int8"), scales)
