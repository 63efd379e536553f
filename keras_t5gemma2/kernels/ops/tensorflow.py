"""What TensorFlow computes as the reference does: all of it."""

from keras_t5gemma2.kernels.ops.reference import (  # noqa: F401  chosen from here by `dispatch`
    argmax,
    by_pieces,
    gated,
    gelu,
    lay_out,
    logits,
    merge_heads,
    product,
    reads_codes,
    rms_norm,
    rotate,
    split_heads,
    times_codes,
)
