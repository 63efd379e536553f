"""Calls of layers without what Keras does around them."""

import contextlib
import threading

_state = threading.local()


@contextlib.contextmanager
def plain_calls():
    """Inside, a `PlainCall` layer called runs its `call` and nothing else.

    Keras names, checks and casts around every call of a layer: 0.15 ms each where programs are
    not compiled, which for the layers of a decoder is as much as all else in a step of one
    token, and half of the time to trace a step where they are.
    """
    earlier = getattr(_state, "is_plain", False)
    _state.is_plain = True
    try:
        yield
    finally:
        _state.is_plain = earlier


class PlainCall:
    """A layer that `plain_calls` has an effect on; goes before `keras.layers.Layer`.

    Layers whose weights are cast when they are used are called by Keras as ever.
    """

    def __call__(self, *args, **kwargs):
        if getattr(_state, "is_plain", False) and self._can_be_plain():
            call = self.call if self.quantization_mode is None else self.quantized_call
            return call(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _can_be_plain(self):
        policy = self.dtype_policy
        is_cast = policy.compute_dtype != policy.variable_dtype
        return self.built and not is_cast
