"""The variables of one adapter on one layer."""

import dataclasses
from typing import Any

from keras import ops


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """The variables of one adapter on one layer, which adds scale * (x A) B to the output.

    Args:
        a: (in, rank) variable.
        b: (rank, out) variable.
        magnitude: (out,) variable of DoRA, the lengths of the columns; or `None`.
        scale: float.
        e: (rank,) variable of AdaLoRA: the product is (x A * E) B then; or `None`.
        start_a: as `a`; or `None`. What the kernel gave to `a` at the start is taken out again, so
            that the kernel itself stays as it is: scale * ((x A) B - (x A0) B0).
        start_b: as `b`, or `None`.
    """

    a: Any
    b: Any
    magnitude: Any
    scale: float
    e: Any = None
    start_a: Any = None
    start_b: Any = None

    def __repr__(self):
        kind = "" if self.magnitude is None else ", with magnitudes"
        return f"<adapter of rank {self.a.shape[1]}, scale {self.scale:g}{kind}>"

    @property
    def variables(self):
        """The variables by the name that files give them."""
        return {**self.trained, **_given(start_a=self.start_a, start_b=self.start_b)}

    @property
    def trained(self):
        """The variables that training changes, by the same names."""
        return _given(lora_a=self.a, lora_e=self.e, lora_b=self.b, magnitude=self.magnitude)

    def factors(self, dtype):
        """(in, R) and (R, out) tensors of the dtype, of which `scale` times the product is added.

        Cast here: where a policy has one dtype only, Keras casts no variable.
        """
        a, b = ops.convert_to_tensor(self.a), ops.convert_to_tensor(self.b)
        if self.e is not None:
            a = a * self.e
        if self.start_a is not None:
            a = ops.concatenate([a, ops.convert_to_tensor(self.start_a)], axis=1)
            b = ops.concatenate([b, -ops.convert_to_tensor(self.start_b)], axis=0)
        return ops.cast(a, dtype), ops.cast(b, dtype)

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
            for v in (kernel, *self.factors(dtype))
        )
        a = a * self.scale
        squares = ops.sum(ops.square(kernel), axis=0)
        squares = squares + 2.0 * ops.sum(ops.matmul(ops.transpose(a), kernel) * b, axis=0)
        squares = squares + ops.sum(ops.matmul(ops.matmul(ops.transpose(a), a), b) * b, axis=0)
        return ops.sqrt(squares)


def _given(**variables):
    return {name: variable for name, variable in variables.items() if variable is not None}
