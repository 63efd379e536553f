"""Names for annotations: what several public functions take.

Keras has no types of its own: to a type checker its classes, and tensors, are `Any`. So is the
result of a function whose kind depends on values of its arguments, as that of `generate` does; the
docstring says what comes.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict

import keras
import numpy as np
import PIL.Image

if TYPE_CHECKING:
    from keras_t5gemma2.constraints.constraint import Constraint
    from keras_t5gemma2.constraints.grammars import Grammar

PathLike: TypeAlias = str | os.PathLike[str]
# An array of numpy, or a tensor of the backend, maybe symbolic.
Tensor: TypeAlias = Any
DType: TypeAlias = str | keras.DTypePolicy
# What the weights of a file are written as; `None` leaves each as it is.
FileDType: TypeAlias = Literal["float32", "bfloat16", "float16"] | None
# Which embedding table is taken from a file that has two.
EmbeddingTable: TypeAlias = Literal["encoder", "decoder", "mean"]
# What an adapter starts as.
AdapterStart: TypeAlias = Literal["pissa", "olora", "eva", "loftq", "orthogonal"]
QuantizationMode: TypeAlias = str | keras.quantizers.QuantizationConfig
# Which layers: expressions of their paths, or a function of a layer.
LayerFilters: TypeAlias = str | Sequence[str] | Callable[[keras.layers.Layer], bool]

# One text, columns by name, or an iterable of texts, rows or batches.
Inputs: TypeAlias = str | Mapping[str, Any] | Iterable[Any]
ColumnNames: TypeAlias = Mapping[str, str]  # from names in the data to those that are read
Image: TypeAlias = PathLike | bytes | IO[bytes] | PIL.Image.Image | np.ndarray | Mapping[str, Any]

StopTokenIds: TypeAlias = Sequence[int] | Literal["auto"] | None
CrossAttentionCache: TypeAlias = Literal["auto", "projected", "shared"]
CacheDType: TypeAlias = Literal["auto", "int8"]
# How `generate` finds the largest logits.
HeadKind: TypeAlias = Literal["auto", "exact", "screened"]
Verbose: TypeAlias = int | Literal["auto"]

# Functions of inputs and outputs, both strings, that give a number for each output.
Reward: TypeAlias = Callable[[list[str], list[str]], Sequence[float] | np.ndarray]
Rewards: TypeAlias = Reward | Sequence[Reward]

# A number for all rows, or one for each.
PerRow: TypeAlias = float | Sequence[float] | np.ndarray


class CallSettings(TypedDict, total=False):
    """How a call of `generate` asks for its text; see there."""

    temperature: PerRow | None
    top_k: PerRow | None
    top_p: PerRow | None
    min_p: PerRow | None
    repetition_penalty: PerRow | None
    no_repeat_ngram_size: PerRow | None
    seed: PerRow | None
    stop: str | Sequence[str] | None
    bad_words: str | Sequence[str] | None
    constraint: "Constraint | Grammar | None"
    num_beams: int | None
    length_penalty: float | None
    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] | None
    return_scores: bool


# The base of a class that goes before one of Keras: its `super()` has methods of Keras's.
if TYPE_CHECKING:
    Mixin: TypeAlias = Any
else:
    Mixin = object


class Generates(Protocol):
    """Whatever has a `generate`, such as a task."""

    @property
    def generate(self) -> Callable[..., Any]: ...
