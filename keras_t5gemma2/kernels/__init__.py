"""Attention, the loss and other operations of the backends: only this folder may import one.

Axes, here and in every shape comment of the package:

    B batch    T queries    S keys (slots of a cache)    N query heads    K key heads
    G = N / K query heads per key head    H head width    D model width    V vocabulary

Each folder has one subject: `reference.py` in it is pure `keras.ops` and the definition of what is
right, the files named after backends are what these do better, and one file chooses among them.
"""

from keras_t5gemma2.kernels.attention.dispatch import attend, use, weighted_sums
from keras_t5gemma2.kernels.attention.reference import attention_weights
from keras_t5gemma2.kernels.attention.scaled import Scaled, plain, times
from keras_t5gemma2.kernels.attention.segments import KeyValues, Window
from keras_t5gemma2.kernels.attention.write import rounded, write
from keras_t5gemma2.kernels.loss.cross_entropy import (
    CHUNK_BYTES,
    SoftTargets,
    TokenSums,
    cross_entropy,
    linear_cross_entropy,
)
from keras_t5gemma2.kernels.ops.dispatch import (
    argmax,
    by_pieces,
    gated,
    gelu,
    lay_out,
    logits,
    merge_heads,
    mixture,
    packed_blocks,
    packs_blocks,
    product,
    product_of_codes,
    reads_codes,
    rms_norm,
    rotate,
    screen_of,
    screened_logits,
    split_heads,
    state_of,
    take_rows,
    times_blocks,
    times_codes,
)
from keras_t5gemma2.kernels.runtime.dispatch import (
    IS_COMPILED,
    check_parameters,
    compiled,
    compiled_step,
    compiles,
    has_mark,
    is_one_cpu,
    is_traced,
    mark_of,
    num_replicas,
    prepare_training,
    rematerialized,
    summed_over_replicas,
    sums_of_metrics,
)
from keras_t5gemma2.kernels.runtime.forks import check_process
from keras_t5gemma2.kernels.runtime.platforms import lowered_for
from keras_t5gemma2.kernels.runtime.reference import FEW_QUERIES

__all__ = [
    "CHUNK_BYTES",
    "FEW_QUERIES",
    "IS_COMPILED",
    "KeyValues",
    "Scaled",
    "SoftTargets",
    "TokenSums",
    "Window",
    "argmax",
    "attend",
    "attention_weights",
    "by_pieces",
    "check_parameters",
    "check_process",
    "compiled",
    "compiled_step",
    "compiles",
    "cross_entropy",
    "gated",
    "gelu",
    "has_mark",
    "is_one_cpu",
    "is_traced",
    "lay_out",
    "linear_cross_entropy",
    "logits",
    "lowered_for",
    "mark_of",
    "merge_heads",
    "mixture",
    "num_replicas",
    "packed_blocks",
    "packs_blocks",
    "plain",
    "prepare_training",
    "product",
    "product_of_codes",
    "reads_codes",
    "rematerialized",
    "rms_norm",
    "rotate",
    "rounded",
    "screen_of",
    "screened_logits",
    "split_heads",
    "state_of",
    "summed_over_replicas",
    "sums_of_metrics",
    "take_rows",
    "times",
    "times_blocks",
    "times_codes",
    "use",
    "weighted_sums",
    "write",
]
