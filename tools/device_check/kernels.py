"""Every kernel of attention that the device has, against the reference: forward and gradient."""

import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.attention import dispatch
from keras_t5gemma2.kernels.runtime.dispatch import platform_at_hand

_WITHOUT_GRADIENT = ("few",)  # it is not taken where one is asked for
# Of the largest number of a tensor, what an error may be.
_LIMITS = {"float32": 2e-3, "bfloat16": 2e-2}  # products of GPUs may round float32 to TF32


def records(tiny):
    """Yields a dict for each kernel, place, dtype and direction."""
    length, widths = (256, (128, 72)) if tiny else (1024, (256, 72))
    platform = platform_at_hand()
    for dtype in ("float32", "bfloat16"):
        for place, call in _calls(length, *widths, dtype).items():
            for name, kernel in dispatch.KERNELS.items():
                if name == "reference":
                    continue
                what = {"part": "kernels", "what": f"{name}, {place}, {dtype}"}
                if (reason := kernel.why_not(*call, platform)) is not None:
                    yield {**what, "skipped": reason}
                    continue
                yield from _compared(what, name, call, dtype)


def _calls(length, width, width_of_tower, dtype):
    rng = np.random.default_rng(0)
    positions = np.tile(np.arange(length, dtype="int32"), (2, 1))
    positions[1, -length // 5 :] = -1
    positions = ops.convert_to_tensor(positions)

    def tensor(heads, count, width):
        return ops.cast(rng.standard_normal((2, heads, count, width), "float32"), dtype)

    def segment(window, at=positions, width=width):
        return KeyValues(tensor(2, length, width), tensor(2, length, width), at), window

    query, one = tensor(4, length, width), tensor(4, 1, width)
    return {
        "encoder": (query, [segment(Window())]),
        "encoder, sliding": (query, [segment(Window.bidirectional(length // 4))]),
        "prefill": (query, [segment(Window.causal()), segment(Window())]),
        "step": (one, [segment(Window.causal()), segment(Window())]),
        "vision": (
            tensor(4, length, width_of_tower),
            [segment(Window(), None, width_of_tower)],
        ),
    }


def _compared(what, name, call, dtype):
    limit = _LIMITS[dtype]
    for direction, function in (("forward", _output), ("gradient", _gradients)):
        if direction == "gradient" and name in _WITHOUT_GRADIENT:
            continue
        try:
            got, want = (function(kernel, *call) for kernel in (name, "reference"))
        except Exception as error:  # a kernel that fails is a finding, and others come behind it
            yield {**what, "direction": direction, "ok": False, "note": _short(error)}
            continue
        error = max(map(_error, got, want))
        yield {**what, "direction": direction, "error": error, "ok": error <= limit}


def _attend(kernel, query, segments):
    positions = segments[0][0].positions
    if positions is not None:
        positions = positions[:, -query.shape[2] :] if query.shape[2] == 1 else positions
    with kernels.use(kernel):
        return kernels.attend(query, positions, segments, query.shape[3] ** -0.5)


def _output(kernel, query, segments):
    program = kernels.compiled(lambda _, q, *kv: _attend(kernel, q, _with(segments, kv)), _MODEL)
    return [_seen(program((), query, *_tensors(segments)), segments)]


def _gradients(kernel, query, segments):
    """Of the query, keys and values, of a sum of squares of what is seen."""

    def loss(query, *tensors):
        output = _attend(kernel, query, _with(segments, tensors))
        return ops.sum(ops.square(ops.cast(_seen(output, segments), "float32")))

    tensors = [query, *_tensors(segments)]
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(jax.grad(loss, tuple(range(len(tensors)))))(*tensors)
    tensors = [x.detach().requires_grad_() for x in tensors]
    loss(*tensors).backward()
    return [x.grad for x in tensors]


def _tensors(segments):
    return [x for kv, _ in segments for x in (kv.keys, kv.values)]


def _with(segments, tensors):
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return [
        (kv._replace(keys=keys, values=values), window)
        for (kv, window), (keys, values) in zip(segments, pairs, strict=True)
    ]


def _seen(output, segments):
    """The output, zero where the query is padding: kernels may do there what they like."""
    positions = segments[0][0].positions
    if positions is None or output.shape[2] != positions.shape[1]:
        return output
    return ops.where(positions[:, None, :, None] >= 0, output, 0)


def _error(got, want):
    got, want = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (got, want))
    error = np.abs(got - want).max() / max(np.abs(want).max(), 1e-6)
    return float(error) if np.isfinite(got).all() else float("inf")


def _short(error):
    return f"{type(error).__name__}: {error}".split("\n")[0][:160]


_MODEL = keras.Model()
