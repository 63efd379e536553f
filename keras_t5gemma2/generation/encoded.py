"""An input encoded once, which knows the model and the weights that encoded it."""

import hashlib
import uuid
import weakref
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.lora.targets import dense_layers
from keras_t5gemma2.messages import shown

# Numbers that are compared to tell whether weights have changed: all of a small model, of a large
# one some of every weight, spread evenly over its axes.
_MOST_SAMPLES = 1 << 20
_FEWEST_OF_A_WEIGHT = 64

_names: weakref.WeakKeyDictionary = (
    weakref.WeakKeyDictionary()
)  # per backbone a name that no other one has


class Encoded:
    """What the decoder needs of an input, as `T5Gemma2Seq2SeqLM.encode` gives it.

    It is for the model that made it, as long as its weights and adapters stay as they were. To
    tell whether weights have changed, up to a million of their numbers are compared.

    Attributes:
        memory: `attention.Memory`, whose tensors are (rows, ...).
        rows: int.
        tokens: int. Tokens of all rows that the decoder sees.
        kind: "projected" or "shared", see `cross_attention_cache`.
        dtype: string. How the numbers of `memory` are stored.
        nbytes: int. Bytes of `memory`.
        source: `Source`, the model and the weights that it came from.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> encoded = lm.encode("Spell 7 in Dutch.")
    >>> encoded
    Encoded(rows=1, tokens=7, bytes=49408, kind="projected", dtype="float32")
    >>> encoded.kind, encoded.dtype, encoded.nbytes
    ('projected', 'float32', 49408)
    """

    def __init__(self, memory: Any, rows: int, tokens: int, source: "Source") -> None:
        self.memory, self.rows, self.tokens = memory, rows, tokens
        self.source = source

    def __len__(self) -> int:
        return self.rows

    @property
    def kind(self) -> Literal["projected", "shared"]:
        """ "projected" or "shared", see `cross_attention_cache`."""
        return "shared" if self.memory.shared else "projected"

    @property
    def dtype(self) -> str:
        """String. How the numbers of `memory` are stored."""
        return self._dtype_of(tree.flatten(self.memory)[0])

    @property
    def nbytes(self) -> int:
        """Bytes of `memory`."""
        leaves = {id(leaf): leaf for leaf in tree.flatten(self.memory)}.values()
        sizes = (np.dtype(self._dtype_of(x)).itemsize * int(np.prod(x.shape)) for x in leaves)
        return sum(sizes)

    def __repr__(self) -> str:
        return (
            f"Encoded(rows={self.rows}, tokens={self.tokens}, bytes={self.nbytes}, "
            f'kind="{self.kind}", dtype="{self.dtype}")'
        )

    @staticmethod
    def _dtype_of(tensor):
        return keras.backend.standardize_dtype(tensor.dtype)


class Source(NamedTuple):
    """What an `Encoded` came from."""

    model: str
    compute_dtype: str
    adapters: tuple
    cache_dtype: str
    weights: str


def source_of(generator, call):
    """The `Source` of what a generator encodes now."""
    backbone = generator.model.backbone
    layers = dense_layers(backbone).values()
    return Source(
        model=_names.setdefault(backbone, uuid.uuid4().hex),
        compute_dtype=backbone.decoder.compute_dtype,
        adapters=tuple((tuple(sorted(x.active.items())), x.merged is not None) for x in layers),
        cache_dtype=call.cache_dtype,
        weights=_digest(generator, call),
    )


def check_encoded(encoded, generator, call, cross_attention_cache):
    """Raises where `encoded` is not what this generator would make of its input now.

    Args:
        encoded: what was given as `encoded`.
        generator: `Generator`.
        call: `calls.Call`.
        cross_attention_cache: as it was given, or `None`.
    """
    if not isinstance(encoded, Encoded):
        raise TypeError(
            "`encoded` must be what `encode` gave. Received: "
            f"encoded={shown(encoded)} (of type {type(encoded).__name__})"
        )
    if cross_attention_cache not in (None, "auto", encoded.kind):
        raise ValueError(
            "`cross_attention_cache` must be left out or that of `encoded`. Received: "
            f"cross_attention_cache={shown(cross_attention_cache)}, encoded={encoded}. Give it to "
            "`encode`"
        )
    was, now = encoded.source, source_of(generator, call)
    reasons = {
        "model": "it was encoded by another model",
        "compute_dtype": f"the model computed in {was.compute_dtype}, and now in "
        f"{now.compute_dtype}",
        "adapters": "the active adapters, or whether they are merged, have changed since",
        "cache_dtype": f"it was encoded with cache_dtype={was.cache_dtype!r}, and now it is "
        f"{now.cache_dtype!r}",
        "weights": "the weights of the model have changed since",
    }
    for name, reason in reasons.items():
        if getattr(was, name) != getattr(now, name):
            raise ValueError(
                f"`encoded` does not fit this model: {reason}. Received: encoded={encoded}. Call "
                "`encode` of this model again, as it is now"
            )


def check_count(encoded, count):
    """Raises where so many rows cannot share what was encoded, each the same number of them."""
    if count % len(encoded):
        raise ValueError(
            "There must be as many rows as were encoded, or R times as many. Received: "
            f"{count} rows and `encoded` of {len(encoded)} rows"
        )


def _digest(generator, call):
    """A short string that changes with the weights."""
    if processes.is_joint():  # None of them has all of the weights.
        return ""
    quiet = call._replace(verbose=0)
    make = lambda: _sampling(generator.model.backbone)  # noqa: E731
    samples = program(generator, ("weights",), make, quiet)(())
    return hashlib.blake2b(ops.convert_to_numpy(samples).tobytes(), digest_size=16).hexdigest()


def _sampling(backbone):
    def sample(_):
        weights = backbone.weights
        most = max(_FEWEST_OF_A_WEIGHT, _MOST_SAMPLES // max(1, len(weights)))
        if sum(int(np.prod(weight.shape)) for weight in weights) <= _MOST_SAMPLES:
            most = _MOST_SAMPLES
        return ops.concatenate([_some(ops.convert_to_tensor(weight), most) for weight in weights])

    return sample


def _some(x, most):
    """About `most` of the numbers of a tensor, in float32, spread evenly over its axes."""
    if int(np.prod(x.shape)) > most:
        per_axis = max(1, int(most ** (1 / len(x.shape))))
        x = x[tuple(slice(None, None, -(-size // per_axis)) for size in x.shape)]
    return ops.reshape(ops.cast(x, "float32"), (-1,))
