"""The platform that programs are made for, where that is not the one at hand.

A program may be compiled, or exported, for a device that this process does not have. What differs
between platforms is then chosen when the program is lowered: see `runtime.jax.by_platform`. Here is
the one override, for whoever knows the platform before that.
"""

import contextlib
import contextvars

from keras_t5gemma2.messages import shown

# As JAX names them when it lowers a program; "gpu" is another name of "cuda".
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_override = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def lowered_for(platform):
    """Inside, whatever is traced or computed is what `platform` does best."""
    token = _override.set(named(platform))
    try:
        yield
    finally:
        _override.reset(token)


def override():
    """The platform that `lowered_for` names, or `None`."""
    return _override.get()


def named(platform, argument="platform"):
    """One of `PLATFORMS`.

    Raises:
        ValueError: `platform` is none of them; the error calls it `argument`.
    """
    name = "cuda" if platform == "gpu" else platform
    if not isinstance(name, str) or name not in PLATFORMS:
        raise ValueError(
            f"`{argument}` must be one of {PLATFORMS}, or 'gpu' for 'cuda'. Received: "
            f"{argument}={shown(platform)}"
        )
    return name
