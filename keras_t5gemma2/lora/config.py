"""What one adapter is, as a frozen object that turns into plain JSON and back."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.options import integer, number

# What a field may hold in a file. An integer is a number, too, and a bool is none.
_KINDS = {
    "rank": ((int,), "an integer"),
    "alpha": ((int, float, type(None)), "a number"),
    "dropout": ((int, float), "a number"),
    "target": ((str, list), '"text" or a list of names'),
    "use_rslora": ((bool,), "true or false"),
    "use_dora": ((bool,), "true or false"),
    "rank_pattern": ((dict,), "an object of integers by layers"),
    "alpha_pattern": ((dict,), "an object of numbers by layers"),
    "init": ((str, type(None)), "the name of a start"),
    "lora_plus": ((int, float), "a number"),
    "triplets": ((bool,), "true or false"),
}
# Files leave these out where they are as by default, so that earlier releases read them.
_LATER: dict[str, Any] = {
    "rank_pattern": {},
    "alpha_pattern": {},
    "init": None,
    "lora_plus": 1,
    "triplets": False,
}
# Of an adapter in a file of its own, which is plain LoRA, only what it computes is told.
_OF_TRAINING = ("init", "lora_plus", "triplets")
INITS = ("pissa", "olora", "eva", "loftq", "orthogonal")
# As peft's AdaLoRA divides by the rank: a rank of 0 would be no error there.
_TINY = 1e-5


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Size and rules of one adapter: y = x W + scale * (drop(x) A) B.

    Args:
        rank: int. Columns of A and rows of B.
        alpha: float. The scale is alpha / rank. By default `rank`, so that the scale is 1.
        dropout: float. Of the adapter's input, in training.
        target: "text", a tuple of names or paths of layers, or a regular expression; see
            `targets.resolve`.
        use_rslora: bool. Whether the scale is alpha / sqrt(rank), for high ranks.
        use_dora: bool. Whether the columns of W + scale * A B are scaled to a length of their
            own that is trained too.
        rank_pattern: dict of other ranks by names or paths of layers; the first key that means a
            layer counts.
        alpha_pattern: dict of other values of `alpha`, in the same way.
        init: what A and B start as, one of `INITS`, or `None` for a random A and zeros.
        lora_plus: float. How many times the step of A the step of B is.
        triplets: bool. Whether the product is (A * E) B, and the scale alpha / (rank + 1e-5).

    Example:

    >>> LoRAConfig(rank=16, alpha=8, use_rslora=True).scale
    2.0
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    target: str | Sequence[str] = "text"
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    init: str | None = None
    lora_plus: float = 1
    triplets: bool = False

    def __post_init__(self):
        rank = integer(self.rank)
        if rank is None or rank < 1:
            raise ValueError(
                f"`rank` must be a positive integer. Received: rank={shown(self.rank)}"
            )
        alpha = rank if self.alpha is None else _positive("alpha", self.alpha)
        dropout = number(self.dropout)
        if dropout is None or not 0 <= dropout < 1:
            raise ValueError(
                "`dropout` must be at least 0 and less than 1. Received: "
                f"dropout={shown(self.dropout)}"
            )
        plus = 1 if self.lora_plus is None else _positive("lora_plus", self.lora_plus)
        if self.init is not None and self.init not in INITS:
            raise ValueError(
                f"`init` must be one of {', '.join(INITS)}, or `None`. Received: "
                f"init={shown(self.init)}"
            )
        ranks = _pattern("rank_pattern", self.rank_pattern, _rank_of_pattern)
        alphas = _pattern("alpha_pattern", self.alpha_pattern, _positive)
        values = {"rank": rank, "alpha": alpha, "dropout": dropout, "lora_plus": plus}
        for name, value in {**values, "rank_pattern": ranks, "alpha_pattern": alphas}.items():
            object.__setattr__(self, name, value)
        if not isinstance(self.target, str):
            object.__setattr__(self, "target", tuple(self.target))
        self._check_triplets()

    def _check_triplets(self):
        if self.triplets and (self.use_dora or self.use_rslora or self.init is not None):
            raise ValueError(
                "Adapters of adaptive rank must be plain LoRA. Received: use_dora="
                f"{self.use_dora}, use_rslora={self.use_rslora}, init={shown(self.init)}. Leave "
                "them out."
            )

    @classmethod
    def from_file(cls, fields, origin):
        """The configuration that a file describes, which nobody has vouched for.

        Its `target` is "text" or a list of names: an expression would be one of whoever wrote the
        file, and can take for ever.

        Args:
            fields: what `to_dict` gave, or whatever else the file holds in its place.
            origin: path of the file, for errors.

        Raises:
            ValueError: `fields` are not those of a configuration.
        """
        problem = _problem_of_fields(fields)
        if problem is None:
            try:
                return cls(**fields)
            except ValueError as error:
                problem = str(error)
        raise ValueError(f"{origin} must describe a LoRA adapter: {problem}")

    @property
    def scale(self):
        """The scale where no pattern says otherwise."""
        return self._scale(self.rank, self.alpha)

    def rank_of(self, path):
        """The rank on the layer of this path."""
        return _first(self.rank_pattern, path, self.rank)

    def alpha_of(self, path):
        """The alpha on the layer of this path."""
        return _first(self.alpha_pattern, path, self.alpha)

    def scale_of(self, path):
        """The scale on the layer of this path."""
        return self._scale(self.rank_of(path), self.alpha_of(path))

    def _scale(self, rank, alpha):
        if self.triplets:
            return alpha / (rank + _TINY)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def plain(self):
        """The configuration without what is about training alone, as files of adapters have it."""
        return dataclasses.replace(self, **{name: _LATER[name] for name in _OF_TRAINING})

    def to_dict(self):
        """The configuration as plain JSON."""
        target = self.target if isinstance(self.target, str) else list(self.target)
        fields = {**dataclasses.asdict(self), "target": target}
        return {k: v for k, v in fields.items() if k not in _LATER or v != _LATER[k]}


def _positive(name, value):
    found = number(value)
    if found is None or not 0 < found < math.inf:
        raise ValueError(
            f"`{name}` must be a positive, finite number. Received: {name}={shown(value)}"
        )
    return found


def _rank_of_pattern(name, value):
    rank = integer(value)
    if rank is None or rank < 0:
        raise ValueError(
            f"`{name}` must have integers of at least 0. Received: {name}={shown(value)}"
        )
    return rank


def _pattern(name, pattern, checked):
    """The dict of a pattern, each of its values checked."""
    if pattern is None:
        return {}
    if not isinstance(pattern, Mapping) or not all(isinstance(key, str) for key in pattern):
        raise ValueError(
            f"`{name}` must be a dict by names, paths or regular expressions of layers, such as "
            f'{{"query": 4}}. Received: {name}={shown(pattern)}'
        )
    return {key: checked(f"{name}[{shown(key)}]", value) for key, value in pattern.items()}


def _first(pattern, path, default):
    """The value of the first key that is the path of a layer or its name."""
    name = path.rpartition("/")[2]
    return next((value for key, value in pattern.items() if key in (path, name)), default)


def _problem_of_fields(fields):
    if not isinstance(fields, dict):
        return f"its configuration must be an object. Received: {shown(fields)}"
    if unknown := sorted(map(str, set(fields) - set(_KINDS))):
        return f"its fields must be among {', '.join(_KINDS)}. Received: {shown(unknown)}"
    if "rank" not in fields:
        return "it must have a `rank`, which is missing"
    for name, value in fields.items():
        types, kind = _KINDS[name]
        is_of_names = name != "target" or value == "text" or isinstance(value, list)
        if isinstance(value, list):
            is_of_names = all(isinstance(one, str) for one in value)
        if type(value) not in types or not is_of_names:
            return f"its `{name}` must be {kind}. Received: {name}={shown(value)}"
        if isinstance(value, dict) and (odd := [key for key in value if not _is_path(key)]):
            return f"its `{name}` must name layers by their paths. Received: {shown(odd[0])}"
    return None


def _is_path(key):
    """Whether a key of a file is no expression: those are run of nobody else's."""
    return isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_/]+", key) is not None


def check_adapter_name(name):
    """Raises where `name` can be no part of a file's name and of a variable's."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]{1,100}", name):
        raise ValueError(
            "The name of an adapter must be letters, digits, - and _, 100 at most. Received: "
            f"name={shown(name)}"
        )


def check_described(adapters, origin):
    """Raises where the adapters in a task's config are not as `get_config` describes them.

    Args:
        adapters: of any type, what should be a dict of `configs` and `active`.
        origin: what an error calls the file or object whose `adapters` they are.

    Raises:
        ValueError: something is missing, or no adapter; the message says what.
    """
    try:
        for name, config in adapters["configs"].items():
            check_adapter_name(name)
            LoRAConfig.from_file(config, name)
        active = adapters["active"]
        is_known = active is None or set([active] if isinstance(active, str) else active) <= set(
            adapters["configs"]
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`adapters` of {origin} must describe adapters: {cause(error, 1000)}"
        ) from error
    if not is_known:
        raise ValueError(
            f"{origin} must have only its own adapters active. Received: {shown(active)}"
        )
