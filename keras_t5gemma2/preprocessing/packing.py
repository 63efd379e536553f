"""Rows of different lengths as arrays of few shapes, and back."""

import numpy as np


def bucket(length, smallest=32, middles_from=32):
    """The length that `length` is rounded up to: so that few programs are compiled.

    Powers of two and, from `middles_from` on, the middle between two of them. By default at most
    a third of what a row of more than 32 tokens is padded to is padding.

    Args:
        length: int.
        smallest: int, a power of two. The least length to be given.
        middles_from: int, a power of two.

    >>> [bucket(n) for n in (1, 33, 49, 65, 100, 300, 400)]
    [32, 48, 64, 96, 128, 384, 512]
    >>> [bucket(n, smallest=64, middles_from=256) for n in (1, 65, 300, 400, 600)]
    [64, 128, 384, 512, 768]
    """
    size = smallest
    while size < length:
        size *= 2
    middle = size // 4 * 3
    return middle if size > max(smallest, middles_from) and length <= middle else size


def padded_length(rows, cap):
    """What rows are padded to: the longest one's bucket, and no more than `cap`.

    Args:
        rows: list of (row length,) ids.
        cap: int.
    """
    return min(bucket(max(len(row) for row in rows)), cap)


def fit_width(array, width):
    """`array` with as many columns: those beyond are cut, those that lack are zeros.

    Args:
        array: (rows, columns, ...).
        width: int.
    """
    missing = max(0, width - array.shape[1])
    if missing:
        array = np.pad(array, [(0, missing if axis == 1 else 0) for axis in range(array.ndim)])
    return array[:, :width]


def pad_tokens(rows, length, pad_token_id):
    """Ids padded at the right, and the mask that tells tokens from padding.

    Args:
        rows: list of (row length,) integers, none longer than `length`.
        length: int.
        pad_token_id: int.

    Returns:
        (rows, length) int32 and (rows, length) bool arrays.

    Example:

    >>> pad_tokens([np.array([5, 7]), np.array([3])], length=3, pad_token_id=0)
    (array([[5, 7, 0],
           [3, 0, 0]], dtype=int32), array([[ True,  True, False],
           [ True, False, False]]))
    """
    mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
    ids = np.full(mask.shape, pad_token_id, "int32")
    ids[mask] = np.concatenate(rows)
    return ids, mask


def stack_images(rows):
    """Images or their features as one array, rows with fewer filled up with zeros at the end.

    Args:
        rows: list of (images, ...) float32 arrays.

    Returns:
        (rows, most images of a row, ...) float32.
    """
    most = max(len(images) for images in rows)
    stacked = np.zeros((len(rows), most, *rows[0].shape[1:]), "float32")
    for target, images in zip(stacked, rows, strict=True):
        target[: len(images)] = images
    return stacked


def unpad_tokens(ids, mask, dropped_ids):
    """Per row, the ids that the mask keeps, without those of `dropped_ids`.

    Args:
        ids: (rows, length) integers.
        mask: (rows, length) bool.
        dropped_ids: list of ints.

    Returns:
        A list of lists of ints.
    """
    keep = mask & ~np.isin(ids, list(dropped_ids))
    return [row[kept].tolist() for row, kept in zip(ids, keep, strict=True)]
