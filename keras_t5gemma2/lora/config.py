"""What one adapter is, as a frozen object that turns into plain JSON and back."""

import dataclasses
import math
import re


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
    target: str | tuple[str, ...] = "text"
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self):
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"`rank` must be a positive integer. Received: rank={self.rank}")
        if self.alpha is None:
            object.__setattr__(self, "alpha", self.rank)
        if not self.alpha > 0:
            raise ValueError(f"`alpha` must be positive. Received: alpha={self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"`dropout` must be at least 0 and less than 1. Received: dropout={self.dropout}"
            )
        if not isinstance(self.target, str):
            object.__setattr__(self, "target", tuple(self.target))

    @property
    def scale(self):
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def to_dict(self):
        """The configuration as plain JSON."""
        target = self.target if isinstance(self.target, str) else list(self.target)
        return {**dataclasses.asdict(self), "target": target}


def check_adapter_name(name):
    """Raises where `name` can be no part of a file's name and of a variable's."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise ValueError(
            f"The name of an adapter must be letters, digits, - and _. Received: name={name!r}"
        )
