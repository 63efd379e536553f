"""Weights that are no numbers: NaN or infinite values, found while they are read."""

import ml_dtypes
import numpy as np
from keras import ops

# The smallest bits of a number of 16 bits that is not finite, without its sign.
_NOT_FINITE = {np.dtype("float16"): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}
_SIGN = 0x8000
# Of an array in a file, read at a time.
_ROWS = 8192


def is_finite(values):
    """Whether all values of an array are finite; always true of integers.

    It takes about as long as to look at the values once, for which a piece should be in cache.

    >>> is_finite(np.ones(3, "float32")), is_finite(np.array([1, np.inf], "float16"))
    (True, False)
    """
    if not _is_float(values.dtype):
        return True
    values = np.ravel(values, order="K")
    if (least := _NOT_FINITE.get(values.dtype)) is not None:
        # As integers with a sign only positive numbers are large, as those without the negative.
        bits = values.view("uint16")
        return bool(
            bits.max(initial=0) < least + _SIGN and bits.view("int16").max(initial=0) < least
        )
    # A sum of squares is not finite if one of them is not, or if it is too large, which is rare.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(values, values))) or bool(np.isfinite(values).all())


def count_nonfinite(values):
    """How many values of an array are NaN or infinite."""
    if not _is_float(values.dtype):
        return 0
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def nonfinite_message(what, source, values):
    """The error message about a tensor that holds NaN or infinite values.

    Args:
        what: string, what the message calls the tensor.
        source: array as the file has it.
        values: array as the model would have it.
    """
    remedy = "Give `allow_nonfinite=True` to load it all the same"
    count, size = count_nonfinite(source), values.size
    if count:
        return (
            f"Values that are loaded must be finite. Received: {what}, of whose {size} values "
            f"{count} {'is' if count == 1 else 'are'} NaN or infinite. {remedy}"
        )
    count = count_nonfinite(values)
    return (
        f"Values that are loaded must be within the range of their type. Received: {what}, of "
        f"whose {size} values {count} {'is' if count == 1 else 'are'} too large for "
        f"{values.dtype}. Load it with another `dtype`. {remedy}"
    )


def check_finite_arrays(arrays, origin):
    """Raises a `ValueError` about the first array that holds NaN or infinite values.

    Args:
        arrays: dict of arrays by name.
        origin: what the error calls the file.
    """
    for name, array in arrays.items():
        if not is_finite(array):
            raise ValueError(nonfinite_message(f"{name} of {origin}", array, array))


def check_finite_group(group, origin, remedy):
    """As `check_finite_arrays`, of all arrays of a group of an HDF5 file, a few rows at a time.

    Args:
        group: `h5py.Group`.
        origin: what the error calls it.
        remedy: string. What to do to load it all the same.
    """

    def check(name, found):
        if not hasattr(found, "dtype"):
            return
        is_bfloat16 = found.attrs.get("dtype") == "bfloat16"  # HDF5 has no name for it
        pieces = (
            found[start : start + _ROWS].view(ml_dtypes.bfloat16 if is_bfloat16 else found.dtype)
            for start in range(0, len(found) if found.shape else 0, _ROWS)
        )
        if not all(is_finite(piece) for piece in pieces):
            raise ValueError(
                "Values that are loaded must be finite. Received: values that are NaN or infinite "
                f"in {name} of {origin}. {remedy}"
            )

    group.visititems(check)


def check_finite_variables(variables, origin):
    """As `check_finite_arrays`, of variables that have taken the values of a file.

    Args:
        variables: list of `keras.Variable`.
        origin: what the error calls the file.
    """
    for variable in variables:
        is_float = variable.dtype in ("float64", "float32", "float16", "bfloat16")
        if is_float and not bool(ops.all(ops.isfinite(variable))):
            array = ops.convert_to_numpy(ops.cast(variable, "float32"))
            raise ValueError(nonfinite_message(f"{variable.path} of {origin}", array, array))


def _is_float(dtype):
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16
