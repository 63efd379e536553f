"""Attention on TensorFlow, which has no kernels beside the portable ones."""

from keras_t5gemma2.kernels.attention.reference import weighted_sums  # noqa: F401  chosen from here by `dispatch`
from keras_t5gemma2.kernels.attention.scaled import rounded  # noqa: F401  chosen from here by `dispatch`
from keras_t5gemma2.kernels.attention.slots import write_slots  # noqa: F401  chosen from here by `dispatch`

PLATFORMS = ()
ATTENTION: dict[str, tuple] = {}  # see `attention.torch`
