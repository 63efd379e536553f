"""Gradient checkpointing changes what is kept, and no number."""

import dataclasses

import keras
import numpy as np
import pytest
from gradients import Gradients, relative_error, step_gradients
from keras import ops
from tiny_models import (
    CONFIG,
    DECODER,
    ENCODER,
    END_OF_IMAGE,
    FULL,
    LOCAL,
    VISION,
    tiny_backbone,
    token_inputs,
)

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.model import stacks, vision

_LOCAL, _FULL = (dataclasses.replace(layer, dropout=0.2) for layer in (LOCAL, FULL))
DROPPING = dataclasses.replace(
    CONFIG,
    encoder=dataclasses.replace(ENCODER, layers=(_LOCAL,), dropout=0.3),
    decoder=dataclasses.replace(DECODER, layers=(_FULL,), dropout=0.3),
    vision=dataclasses.replace(VISION, num_layers=1, dropout=0.3),
)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    x = token_inputs(rng, (14, 10), (3, 6), images=2)
    x["encoder_token_ids"][:, 9] = END_OF_IMAGE
    return x, rng.integers(10, 101, size=(2, 6)), x["decoder_padding_mask"].astype("float32")


def task(gradient_checkpointing, dtype=None):
    keras.utils.set_random_seed(3)
    backbone = tiny_backbone(DROPPING, dtype=dtype)
    backbone.gradient_checkpointing = gradient_checkpointing
    backbone.vision.tower.trainable = True
    lm = T5Gemma2Seq2SeqLM(backbone)
    lm.compile(optimizer=Gradients())
    return lm


@pytest.mark.once
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.once)]
)
def test_the_same_training_with_dropout(batch, dtype):
    """Losses, gradients and the states of the seed generators in two steps."""
    results = []
    for gradient_checkpointing in (False, True):
        lm = task(gradient_checkpointing, dtype)
        steps = [step_gradients(lm, batch) for _ in range(2)]
        seeds = [ops.convert_to_numpy(v) for v in lm.non_trainable_variables]
        results.append((steps, seeds))
    (want_steps, want_seeds), (steps, seeds) = results

    tolerance = {"float32": 1e-5, "mixed_bfloat16": 1e-2}[dtype]
    assert abs(steps[0][0] - steps[1][0]) > 1e-4  # other masks
    for (loss, gradients), (want_loss, want) in zip(steps, want_steps, strict=True):
        np.testing.assert_allclose(loss, want_loss, rtol=tolerance)
        for path, gradient in want.items():
            if not path.endswith("key/bias"):  # no loss depends on it
                assert relative_error(gradients[path], gradient) < tolerance, path
    np.testing.assert_array_equal(seeds, want_seeds)
    assert len(seeds) == 2 * 3 + 2 + 1


@pytest.mark.once
def test_the_same_training_of_adapters_with_dropout(batch):
    """Those on the keys and values of the encoder's tokens too, where no layer is called around."""
    results = []
    for gradient_checkpointing in (False, True):
        lm = task(gradient_checkpointing)
        lm.enable_lora(2, dropout=0.3)
        for variable in lm.trainable_variables:
            variable.assign(keras.random.normal(variable.shape, seed=len(variable.path)))
        lm.compile(optimizer=Gradients())
        keras.utils.set_random_seed(5)
        results.append(step_gradients(lm, batch))
    (want_loss, want), (loss, gradients) = results
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    assert len(want) == 2 * 7 * 2
    for path, gradient in want.items():
        assert relative_error(gradients[path], gradient) < 1e-5, path


@pytest.mark.parametrize("rows", [0, 2] if keras.config.backend() == "tensorflow" else [])
def test_a_replica_may_have_got_no_row(rows):
    import tensorflow as tf

    square = kernels.rematerialized(lambda x: (x * x, []))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = square(x)[0]
        return tape.gradient(y, x)

    np.testing.assert_array_equal(gradient(tf.ones((rows, 3))), np.full((rows, 3), 2.0))


@pytest.mark.once
def test_it_may_be_set_after_compiling(batch, monkeypatch):
    """And only training computes anything again."""
    lm = task(False)
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    calls = []
    for module in (stacks, vision):
        recomputed = module.recomputed
        monkeypatch.setattr(
            module,
            "recomputed",
            lambda layer, *rest, real=recomputed: calls.append(layer) or real(layer, *rest),
        )
    dropping = lm.train_on_batch(*batch, return_dict=True)["loss"]
    assert not calls
    lm.backbone.gradient_checkpointing = True
    assert abs(dropping - lm.test_on_batch(*batch, return_dict=True)["loss"]) > 1e-3
    assert not calls
    lm.train_on_batch(*batch)
    backbone = lm.backbone
    blocks = [backbone.vision.tower.blocks, backbone.encoder.blocks, backbone.decoder.blocks]
    assert calls == [block for stack in blocks for block in stack]
    calls.clear()
    backbone.gradient_checkpointing = False
    lm.train_on_batch(*batch)
    assert not calls


@pytest.mark.once
def test_it_is_part_of_the_config():
    backbone = T5Gemma2Backbone(CONFIG, gradient_checkpointing=True)
    assert backbone.get_config()["gradient_checkpointing"] is True
    revived = T5Gemma2Backbone.from_config(backbone.get_config())
    assert revived.gradient_checkpointing and revived.vision.tower.gradient_checkpointing
    assert not T5Gemma2Backbone(CONFIG).gradient_checkpointing
