"""Keys and values of new tokens written into the slots of earlier ones."""

from keras_t5gemma2.kernels.attention.dispatch import backend
from keras_t5gemma2.kernels.attention.scaled import Scaled
from keras_t5gemma2.kernels.attention.segments import KeyValues

rounded = backend.rounded


def write(past, fresh, slots):
    """`past` with the keys and values of `fresh` in its slots.

    On torch the tensors of `past` themselves are written, since copying a whole cache for each
    token would make long outputs slow; elsewhere the compiler does the same. Where `past` has
    `Scaled`, what is written is rounded.

    Args:
        past: `KeyValues` of S slots, whose positions already hold those of the new tokens.
        fresh: `KeyValues` of T tokens.
        slots: int32 tensor, of one token a scalar, else (T,).
    """
    keys = _write(past.keys, fresh.keys, slots)
    return KeyValues(keys, _write(past.values, fresh.values, slots), past.positions)


def _write(buffer, fresh, slots):
    if not isinstance(buffer, Scaled):
        return backend.write_slots(buffer, fresh, slots)
    pairs = zip(buffer, rounded(fresh), strict=True)
    return Scaled(*(backend.write_slots(old, new, slots) for old, new in pairs))
