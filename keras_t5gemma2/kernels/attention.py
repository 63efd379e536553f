"""Attention, and the table that chooses who computes it."""

import contextlib
import contextvars
import dataclasses
import importlib
from typing import Any, NamedTuple

import keras

from keras_t5gemma2.kernels import blocked, reference
from keras_t5gemma2.kernels.scaled import plain
from keras_t5gemma2.messages import shown
from keras_t5gemma2.sharding.tokens import token_shards

_BACKEND = importlib.import_module(f"keras_t5gemma2.kernels.{keras.config.backend()}")
# The name of the kernel that `use` asks for.
_forced = contextvars.ContextVar("forced", default=None)


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


def attend(query, positions, parts, scale, drop=None, shards=None):
    """Attention of `query` over the tokens of several parts, under one softmax.

    Args:
        query: (B, N, T, H) tensor.
        positions: (B, T) int32 tensor, the queries' positions; `None` where no part has any.
        parts: list of `(KeyValues, Window)`. A token is seen where its position is not -1 and
            lies inside the part's window around the query's. The batch of a part may be B / R:
            then R rows of the query in turn share one of its rows.
        scale: float, times the scores.
        drop: `None`, or a function that drops some of a tensor of probabilities.
        shards: `None`, or the `TokenShards` whose parts the rows of the query are. There is one
            part of keys then, of one row.

    Returns:
        (B, N, T, H) tensor in the dtype of `query`; zeros where a query sees nothing.
    """
    if query.shape[2] is None or query.shape[2] > reference.FEW_QUERIES:
        parts = [(kv.plain(query.dtype), window) for kv, window in parts]
    if drop is not None:  # the one kernel whose probabilities can be had
        return reference.attend(query, positions, parts, scale, drop)
    if shards is not None:
        mesh = shards.device_mesh.backend_mesh
        return _BACKEND.attend_in_parts(_attend, query, positions, parts, scale, mesh, shards.axis)
    if choose(query, parts) is KERNELS["blocked"]:
        parts = [(_whole(keys_values), window) for keys_values, window in parts]
    return _attend(query, positions, parts, scale)


def _attend(query, positions, parts, scale):
    kernel = choose(query, parts)
    return kernel.attend(query, positions, parts, scale, _BACKEND)


def _whole(keys_values):
    """Keys that the devices have in parts, put together before a loop does so for every block."""
    shards = token_shards(keys_values.keys.shape[::2])
    if shards is None:
        return keys_values
    return _BACKEND.whole(keys_values, shards.device_mesh.backend_mesh)


@contextlib.contextmanager
def use(name):
    """Has every attention inside computed, or traced, by the kernel `name` of `KERNELS`."""
    if name not in KERNELS:
        raise ValueError(f"`name` must be one of {sorted(KERNELS)}. Received: name={shown(name)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(query, parts):
    if _forced.get() is not None:
        return KERNELS[_forced.get()]
    return next(kernel for kernel in KERNELS.values() if kernel.suits(query, parts))


class _Kernel(NamedTuple):
    attend: Any  # function of (query, positions, parts, scale, module of the backend)
    suits: Any  # from (query, parts) to whether to choose it, if none above it is chosen


# The first that suits is chosen.
KERNELS = {
    **{name: _Kernel(*kernel) for name, kernel in _BACKEND.ATTENTION.items()},
    "reference": _Kernel(lambda *args: reference.attend(*args[:4]), reference.suits),
    "blocked": _Kernel(blocked.attend, lambda *_: True),
}
