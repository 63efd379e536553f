"""The variables of one adapter on one layer."""

import dataclasses
from typing import Any

from keras import ops


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """The variables of one adapter on one layer.

    Args:
        a: (in, rank) variable.
        b: (rank, out) variable.
        magnitude: (out,) variable of DoRA, the lengths of the columns; or `None`.
        scale: float.
    """

    a: Any
    b: Any
    magnitude: Any
    scale: float

    def __repr__(self):
        kind = "" if self.magnitude is None else ", with magnitudes"
        return f"<adapter of rank {self.a.shape[1]}, scale {self.scale:g}{kind}>"

    @property
    def variables(self):
        """The variables by the name that files give them."""
        found = {"lora_a": self.a, "lora_b": self.b, "magnitude": self.magnitude}
        return {name: variable for name, variable in found.items() if variable is not None}

    def column_norms(self, kernel, dtype):
        """(out,) float32 lengths of the columns of W + scale * A B, without forming A B.

        They get no gradient, as in the paper (section 4.3).

        Args:
            kernel: (in, out) variable W.
            dtype: string, in which W, A and B are multiplied: an untrained adapter then changes
                nothing.
        """
        kernel, a, b = (
            ops.stop_gradient(ops.cast(ops.cast(v, dtype), "float32"))
            for v in (kernel, self.a, self.b)
        )
        a = a * self.scale
        squares = ops.sum(ops.square(kernel), axis=0)
        squares = squares + 2.0 * ops.sum(ops.matmul(ops.transpose(a), kernel) * b, axis=0)
        squares = squares + ops.sum(ops.matmul(ops.matmul(ops.transpose(a), a), b) * b, axis=0)
        return ops.sqrt(squares)
