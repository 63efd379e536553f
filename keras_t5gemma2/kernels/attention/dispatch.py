"""Attention, and the table that chooses the kernel which computes it."""

import contextlib
import contextvars
import functools
import importlib
from typing import Any, NamedTuple

import keras

from keras_t5gemma2.kernels.attention import blocked, reference
from keras_t5gemma2.kernels.runtime.dispatch import by_platform, platform_of
from keras_t5gemma2.kernels.runtime.reference import FEW_QUERIES
from keras_t5gemma2.messages import shown
from keras_t5gemma2.sharding.tokens import token_shards

# The file of the backend that is in use.
backend = importlib.import_module(f"keras_t5gemma2.kernels.attention.{keras.config.backend()}")
weighted_sums = backend.weighted_sums
# The name of the kernel that `use` asks for.
_forced = contextvars.ContextVar("forced", default=None)


def attend(query, positions, segments, scale, cap=None, drop=None, shards=None):
    """Attention of `query` over the tokens of several segments, under one softmax.

    Args:
        query: (B, N, T, H) tensor.
        positions: (B, T) int32 tensor, the queries' positions; `None` where no segment has any.
        segments: list of `(KeyValues, Window)`. A token is seen where its position is not -1 and
            lies inside the segment's window around the query's. The batch of a segment may be
            B / R: then R consecutive rows of the query share one of its rows.
        scale: float, times the scores.
        cap: `None`, or a float: scores become `cap * tanh(scores / cap)`.
        drop: `None`, or a function that drops some of a tensor of probabilities.
        shards: `None`, or the `TokenShards` that the rows of the query are. There is one segment
            then, of one row.

    Returns:
        (B, N, T, H) tensor in the dtype of `query`; zeros where a query sees nothing.
    """
    if query.shape[2] is None or query.shape[2] > FEW_QUERIES:
        segments = [(kv.plain(query.dtype), window) for kv, window in segments]
    if drop is not None:  # the one kernel whose probabilities can be had
        return reference.attend(query, positions, segments, scale, cap, drop)
    if shards is not None:
        mesh = shards.device_mesh.backend_mesh
        attend_here = functools.partial(_attend, cap=cap)
        return backend.attend_on_shards(
            attend_here, query, positions, segments, scale, mesh, shards.axis
        )
    return _attend(query, positions, segments, scale, cap, _whole)


def _attend(query, positions, segments, scale, cap=None, whole=None):
    """By the kernel of the platform that the program is lowered for, known or not yet."""
    tensors, windows = zip(*segments, strict=True)
    capped = () if cap is None else (cap,)  # which not every kernel takes

    def by(kernel):
        def attend(query, positions, tensors):
            if whole is not None and kernel is KERNELS["blocked"]:
                tensors = map(whole, tensors)
            seen = [*zip(tensors, windows, strict=True)]
            return kernel.attend(query, positions, seen, scale, *capped)

        return attend

    known = platform_of([query, tensors])
    if known is not None:
        return by(choose(query, segments, cap, known))(query, positions, tensors)
    of_others = choose(query, segments, cap)
    chosen = {name: choose(query, segments, cap, name) for name in backend.PLATFORMS}
    chosen = {name: by(kernel) for name, kernel in chosen.items() if kernel is not of_others}
    if not chosen:
        return by(of_others)(query, positions, tensors)
    return by_platform(chosen, by(of_others), query, positions, tensors)


def _whole(keys_values):
    """Sharded keys gathered once, before a loop does so for every block."""
    shards = token_shards(keys_values.keys.shape[::2])
    if shards is None:
        return keys_values
    return backend.whole(keys_values, shards.device_mesh.backend_mesh)


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


def choose(query, segments, cap=None, platform=None):
    """The kernel that `use` asks for, or the first that suits the call.

    Args:
        query, segments, cap: see `attend`.
        platform: of `platforms.PLATFORMS`. By default that of the query; where it is not known
            before a program is lowered, one that has no kernels of its own.

    Raises:
        ValueError: scores are to be capped, which the kernel that is asked for cannot do.
    """
    if (name := _forced.get()) is None:
        able = (kernel for kernel in KERNELS.values() if cap is None or kernel.caps)
        platform = platform_of([query]) if platform is None else platform
        return next(k for k in able if k.why_not(query, segments, platform) is None)
    if cap is not None and not KERNELS[name].caps:
        able = [name for name, kernel in KERNELS.items() if kernel.caps]
        raise ValueError(
            f"The kernel must be one that caps scores, {', '.join(able)}. Received: {name}, and "
            f"cap={shown(cap)}"
        )
    return KERNELS[name]


class _Kernel(NamedTuple):
    attend: Any  # function of (query, positions, segments, scale)
    # From (query, segments, platform) to why it is not chosen where none above it is, or `None`.
    why_not: Any
    caps: bool  # whether `attend` takes a cap of scores too


# The first that suits is chosen.
KERNELS = {
    **{name: _Kernel(*kernel) for name, kernel in backend.ATTENTION.items()},
    "reference": _Kernel(reference.attend, reference.why_not, True),
    "blocked": _Kernel(blocked.attend, lambda *_: None, True),
}
