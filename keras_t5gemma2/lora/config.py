"""What one adapter is, as a frozen object that turns into plain JSON and back."""

import dataclasses
import math
import re
from collections.abc import Sequence

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
}


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

    def __post_init__(self):
        rank = integer(self.rank)
        if rank is None or rank < 1:
            raise ValueError(
                f"`rank` must be a positive integer. Received: rank={shown(self.rank)}"
            )
        alpha = rank if self.alpha is None else number(self.alpha)
        if alpha is None or not 0 < alpha < math.inf:
            raise ValueError(
                f"`alpha` must be a positive, finite number. Received: alpha={shown(self.alpha)}"
            )
        dropout = number(self.dropout)
        if dropout is None or not 0 <= dropout < 1:
            raise ValueError(
                "`dropout` must be at least 0 and less than 1. Received: "
                f"dropout={shown(self.dropout)}"
            )
        for name, value in (("rank", rank), ("alpha", alpha), ("dropout", dropout)):
            object.__setattr__(self, name, value)
        if not isinstance(self.target, str):
            object.__setattr__(self, "target", tuple(self.target))

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
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def to_dict(self):
        """The configuration as plain JSON."""
        target = self.target if isinstance(self.target, str) else list(self.target)
        return {**dataclasses.asdict(self), "target": target}


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
    return None


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
