"""What is said while a program is compiled, which is when a call takes far longer than usual."""

import contextlib
import contextvars
import time

from keras_t5gemma2.messages import say

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


_WORDS = {
    "encoder_token_ids": "tokens of the encoder",
    "decoder_token_ids": "tokens of the decoder",
    "new_token_ids": "new tokens",
    "images": "images",
    "image_features": "images",
}


def sizes_of(args):
    """The sizes of the arguments of a program, in words.

    Args:
        args: list of dicts of arrays as the model takes them, of what the encoder left
            (`attention.Memory`), of arrays of the decoder's ids or what has them as `ids`, and of
            others, which do not count.
    """
    shapes = {}
    for arg in args:
        if isinstance(arg, dict):
            shapes |= {name: _shape(x) for name, x in arg.items() if name in _WORDS}
            arg = arg.get("memory")
        arg = getattr(arg, "ids", arg)  # of a `DecodeState`
        positions = getattr(arg, "positions", None)  # of a cache, they are in a dict
        if hasattr(positions, "shape"):
            shapes["encoder_token_ids"] = _shape(positions)
        elif len(_shape(arg)) == 2 and "int" in str(arg.dtype):
            shapes["decoder_token_ids"] = _shape(arg)
    named = [(_WORDS[name], shapes[name]) for name in _WORDS if len(shapes.get(name, ())) > 1]
    rows = [shape[0] for _, shape in named if shape[0] is not None]
    count = max(rows) if rows else "any number of"
    sizes = [f"{'any number of' if n is None else n} {words}" for words, (_, n, *_) in named]
    return ", ".join([f"{count} {'row' if count == 1 else 'rows'}", *sizes])


def _shape(x):
    try:
        return tuple(getattr(x, "shape", ()))
    except ValueError:  # of a tensor of TensorFlow whose rank is not known
        return ()


def _say(text):
    # On stderr, which scripts keep apart from results.
    if is_told():
        say(f"keras_t5gemma2: {text}")
