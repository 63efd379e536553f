"""What a model is to do, as far as it takes memory."""

import dataclasses
import math

import keras
import numpy as np

from keras_t5gemma2.generation.calls import checked_head
from keras_t5gemma2.messages import shown

MODES = ("inference", "fit", "lora")
INT32 = FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done with a model, and on what.

    Args:
        mode: "inference" for `generate`; "fit" to train all weights but the vision tower's; "lora"
            to train adapters on every projection of the text stacks.
        dtype: string, of the model, as in "bfloat16" or "mixed_bfloat16".
        encoder_length: int. Tokens of a row that the encoder reads.
        decoder_length: int. Tokens of a row that the decoder generates or is trained on.
        batch_size: int. Rows at a time, of all devices together.
        images: int. Images of a row.
        mesh: pair of ints. Devices along the data axis, and along the model axis.
        fsdp: bool. Whether what the model axis leaves whole is sharded over the data axis too.
        optimizer: name of a Keras optimizer, or a `keras.optimizers.Optimizer`.
        rank: int. Of the adapters.
        gradient_checkpointing: bool. As the backbone's.
        cross_attention_cache: "auto", "projected" or "shared". As the task's.
        head: "auto", "exact" or "screened". As the task's, which a CPU alone can screen.

    Raises:
        ValueError: `mode` is none of the three, or a number is not positive.
    """

    mode: str = "inference"
    dtype: str = "bfloat16"
    encoder_length: int = 512
    decoder_length: int = 128
    batch_size: int = 1
    images: int = 0
    mesh: tuple[int, int] = (1, 1)
    fsdp: bool = False
    optimizer: str | keras.optimizers.Optimizer = "adam"
    rank: int = 16
    gradient_checkpointing: bool = True
    cross_attention_cache: str = "auto"
    head: str = "auto"

    def __post_init__(self):
        keras.DTypePolicy(self.dtype)  # raises where it is none
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={shown(self.mode)}")
        checked_head(self.head)
        for name in ("encoder_length", "decoder_length", "batch_size", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={getattr(self, name)}"
                )
        if len(self.mesh) != 2 or min(self.mesh) < 1:
            raise ValueError(
                "`mesh` must be two numbers of devices, along the data axis and along the model "
                f"axis. Received: mesh={shown(self.mesh)}"
            )

    @property
    def rows(self):
        """Rows of a batch on the device that has most of them."""
        return math.ceil(self.batch_size / self.mesh[0])

    @property
    def policy(self):
        return keras.DTypePolicy(self.dtype)


def compute_size(work):
    return np.dtype(work.policy.compute_dtype).itemsize


def divides(count, work):
    """Parts that the model axis makes of an axis of `count`: one where it does not divide it."""
    return work.mesh[1] if count % work.mesh[1] == 0 else 1
