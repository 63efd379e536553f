"""Rows of different lengths as arrays, and back."""

import numpy as np


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
