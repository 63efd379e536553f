"""What a query attends to: segments of keys and values, and the rule that says which it sees."""

import dataclasses
from typing import Any, NamedTuple

from keras_t5gemma2.kernels.attention.scaled import plain


class KeyValues(NamedTuple):
    """Keys and values of some tokens, with the positions they stand at.

    Each of the two is a tensor or `Scaled`.

    A `NamedTuple` is a pytree on every backend, and passes through layers and loops untouched.
    """

    keys: Any  # (B, K, S, H)
    values: Any  # (B, K, S, H)
    positions: Any  # (B, S) int32; -1: nobody sees this token. None: everybody sees every token

    def plain(self, dtype):
        """The same with tensors."""
        return self._replace(keys=plain(self.keys, dtype), values=plain(self.values, dtype))


@dataclasses.dataclass(frozen=True)
class Window:
    """How far a query sees: `left` positions before its own and `right` after. None: no limit.

    >>> Window.causal(3)
    Window(left=2, right=0)
    >>> Window.bidirectional(6)
    Window(left=2, right=3)
    """

    left: int | None = None
    right: int | None = None

    @classmethod
    def from_dict(cls, fields):
        return cls(**fields)

    @classmethod
    def causal(cls, size=None):
        """The decoder's rule: `size` tokens ending with the query itself."""
        return cls(None if size is None else size - 1, 0)

    @classmethod
    def bidirectional(cls, size=None):
        """The encoder's rule: `size` tokens around the query, an even size one more to the right.

        Source: `sliding_window_mask_function(is_causal=False)` of the reference.
        """
        return cls() if size is None else cls((size - 1) // 2, size // 2)
