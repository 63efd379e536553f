"""Which kernel of attention a device would run, said without running one."""

import types
from collections.abc import Mapping
from typing import NamedTuple

import keras

from keras_t5gemma2.kernels.attention import dispatch
from keras_t5gemma2.kernels.attention.segments import KeyValues, Window
from keras_t5gemma2.kernels.runtime import platforms
from keras_t5gemma2.kernels.runtime.dispatch import platform_at_hand
from keras_t5gemma2.options import counted


class KernelChoice(NamedTuple):
    """The kernel that computes attention at one place of the model.

    Args:
        kernel: string, its name.
        why_not: dict from the names of the better ones, which are asked first, to why these do not
            compute such a call.
    """

    kernel: str
    why_not: Mapping[str, str]


class KernelChoices(dict[str, KernelChoice]):
    """`KernelChoice` by the place in the model; `str` makes a table of them in Markdown."""

    def __str__(self):
        lines = ["| attention of | kernel | why not another |", "| --- | --- | --- |"]
        for place, (kernel, why_not) in self.items():
            reasons = "; ".join(f"{name}: {reason}" for name, reason in why_not.items())
            lines.append(f"| {place} | {kernel} | {reasons or '-'} |")
        return "\n".join(lines)


def kernels_for(
    device: str | None = None,
    length: int = 512,
    dtype: str = "bfloat16",
    head_dim: int = 256,
    window: int | None = 512,
    soft_cap: float | None = None,
) -> KernelChoices:
    """Which kernel of attention would run on a device, and why not those before it in the table.

    It is asked of the same table that programs are made by, for the backend in use. The device need
    not be there. "encoder" is an encoder layer of full attention, "encoder, sliding" one with a
    window, "prefill" a decoder layer that reads a prompt, "step" one that reads a token, and
    "vision" a layer of a vision tower, where every token sees every other.

    Args:
        device: "cpu", "cuda" (or "gpu"), "rocm" or "tpu"; by default the one at hand.
        length: int. Tokens of the input, of the prompt and before a step alike.
        dtype: string, of the queries, keys and values.
        head_dim: int. Width of a head; 256 in the published models and 72 in their vision tower.
        window: int. Tokens of the window of a sliding layer.
        soft_cap: float, where scores are capped, as in the layers of T5Gemma 1.

    Returns:
        Dict from the place to a `KernelChoice`; as a string, a table in Markdown.

    Raises:
        ValueError: there is no such device, or a number is not positive.

    Example:

    >>> found = keras_t5gemma2.kernels_for("tpu", length=4096, head_dim=256)
    >>> found["step"].kernel in ("splash", "cudnn")
    False
    >>> sorted(found)
    ['encoder', 'encoder, sliding', 'prefill', 'step', 'vision']
    """
    platform = platform_at_hand() if device is None else platforms.named(device, "device")
    sizes = {"length": length, "head_dim": head_dim, "window": 1 if window is None else window}
    for name, value in sizes.items():
        counted(name, value)
    dtype = keras.backend.standardize_dtype(dtype)
    with platforms.lowered_for(platform):
        return KernelChoices(
            {
                place: _choice(query, segments, platform, soft_cap)
                for place, (query, segments) in _calls(length, dtype, head_dim, window).items()
            }
        )


def _calls(length, dtype, head_dim, window):
    """Per place, the queries and the segments of a call, of which nothing but the form is there."""

    def tensor(count):
        fields = {"shape": (1, 1, count, head_dim), "dtype": dtype, "requires_grad": False}
        return types.SimpleNamespace(**fields)

    def segment(rule, positions=True):
        return KeyValues(tensor(length), tensor(length), positions or None), rule

    many, one, memory = tensor(length), tensor(1), segment(Window())
    return {
        "encoder": (many, [segment(Window.bidirectional())]),
        "encoder, sliding": (many, [segment(Window.bidirectional(window))]),
        "prefill": (many, [segment(Window.causal()), memory]),
        "step": (one, [segment(Window.causal()), memory]),
        "vision": (many, [segment(Window(), positions=False)]),
    }


def _choice(query, segments, platform, cap):
    why_not = {}
    for name, kernel in dispatch.KERNELS.items():
        reason = kernel.why_not(query, segments, platform)
        if reason is None and cap is not None and not kernel.caps:
            reason = "it does not cap scores"
        if reason is None:
            return KernelChoice(name, why_not)
        why_not[name] = reason
    raise AssertionError("the last kernel of the table is for everything")
