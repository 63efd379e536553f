"""Whether adapters go into files of their own, apart from the weights that they stand beside."""

import contextlib
import contextvars

_are_apart = contextvars.ContextVar("are_apart", default=False)


@contextlib.contextmanager
def adapters_apart():
    """Inside, layers save their weights without their adapters, in this thread."""
    token = _are_apart.set(True)
    try:
        yield
    finally:
        _are_apart.reset(token)


def are_apart():
    """Whether adapters are saved apart."""
    return _are_apart.get()
