"""Training runs that are killed after some step, and taken up again."""

import contextlib
import dataclasses

import keras
from tasks import ONE_LAYER, small_task
from tiny_models import DECODER, ENCODER, LOCAL

_LOCAL = dataclasses.replace(LOCAL, dropout=0.2)
DROPPING = dataclasses.replace(
    ONE_LAYER,
    encoder=dataclasses.replace(ENCODER, layers=(_LOCAL,), dropout=0.3),
    decoder=dataclasses.replace(DECODER, layers=(_LOCAL,), dropout=0.3),
)
TEXTS = [f"the {a} is {b}" for a in ("cat", "dog", "bee") for b in ("red", "what", "here")]
MANY = {"encoder_text": TEXTS, "decoder_text": [text[::-1] for text in TEXTS]}  # 5 batches


class Killed(Exception):
    """What ends a run in these tests."""


class Losses(keras.callbacks.Callback):
    """The means of the epoch so far after each step; ends a run as a signal would."""

    def __init__(self, kill_after=None):
        super().__init__()
        self.values, self.kill_after = [], kill_after

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))
        if len(self.values) == self.kill_after:
            raise Killed


def new_task(is_lora, seed=0):
    """A process of its own would begin like this."""
    keras.utils.set_random_seed(seed)
    lm = small_task(DROPPING)
    if is_lora:
        lm.enable_lora(2, dropout=0.4)
    lm.compile(optimizer=keras.optimizers.Adam(3e-2, global_clipnorm=1.0), sampler="greedy")
    return lm


def run(lm, callbacks=(), **options):
    losses = Losses(options.pop("kill_after", None))
    with contextlib.suppress(Killed):
        options = {"epochs": 3, "batch_size": 2, "verbose": 0, **options}
        lm.fit(MANY, callbacks=[*callbacks, losses], **options)
    return losses.values
