"""What is said while a program is compiled, which is when a call takes far longer than usual."""

import contextlib
import contextvars
import sys
import time

_is_told = contextvars.ContextVar("is_told", default=True)


@contextlib.contextmanager
def told(verbose):
    """Sets whether compiling is reported inside: `verbose` is "auto", 0 for no, or 1 for yes."""
    token = _is_told.set(bool(verbose))
    try:
        yield
    finally:
        _is_told.reset(token)


def is_told():
    """Whether compiling is reported here, which `told` says."""
    return _is_told.get()


@contextlib.contextmanager
def compiling(what, sizes):
    """Reports on stderr that a program is compiled inside, and then how long it took.

    Args:
        what: string. What the program does, such as "generate".
        sizes: string. The sizes for which it is compiled.
    """
    began = began_compiling(what, sizes)
    yield
    ended_compiling(what, began)


def began_compiling(what, sizes):
    """Reports that compiling begins. Returns the time, for `ended_compiling`."""
    _say(f"compiling {what} for {sizes}, once for these sizes ...")
    return time.perf_counter()


def ended_compiling(what, began):
    """Reports that what `began_compiling` reported has ended."""
    _say(f"compiled {what} in {time.perf_counter() - began:.1f} s")


def _say(text):
    # On stderr, which notebooks and scripts keep apart from results.
    if is_told() and sys.stderr is not None:
        print(f"keras_t5gemma2: {text}", file=sys.stderr, flush=True)
