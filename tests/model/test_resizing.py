"""A backbone with other rows in its table: rows and everything else, floats and integers."""

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import CONFIG, SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2.model.resizing import rows_of_table, with_rows

KEPT = np.array([0, 1, 3, 6, 7, 20, 50, 99, 100])


def table(backbone):
    return ops.convert_to_numpy(backbone.token_embedding.float_matrix()).astype("float32")


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_rows_are_kept_to_the_bit_and_new_ones_follow(mode, rng):
    backbone = tiny_backbone(SMALL_CONFIG)
    if mode is not None:
        backbone.quantize(mode)
    new = rng.normal(size=(2, CONFIG.hidden_dim)).astype("float32")
    made = with_rows(backbone, KEPT, new, end_of_image_token_id=3, image_token_id=4)
    assert made.config.vocabulary_size == len(KEPT) + 2
    assert (made.config.end_of_image_token_id, made.config.image_token_id) == (3, 4)
    assert made.quantized_layers == backbone.quantized_layers
    np.testing.assert_array_equal(table(made)[:-2], table(backbone)[KEPT])
    largest = np.abs(new).max()
    error = {None: 0.0, "int8": largest / 127, "int4": largest / 7}[mode]
    np.testing.assert_allclose(table(made)[-2:], new, atol=error)
    np.testing.assert_array_equal(
        rows_of_table(made.token_embedding, [1, 10]), table(made)[[1, 10]]
    )


def test_all_other_weights_are_copies(rng):
    backbone = tiny_backbone()
    made = with_rows(backbone, np.arange(101))
    pairs = list(zip(backbone.weights, made.weights, strict=True))
    for old, new in pairs:
        assert old.path == new.path and old.dtype == new.dtype
        np.testing.assert_array_equal(ops.convert_to_numpy(old), ops.convert_to_numpy(new))
    before = [np.array(ops.convert_to_numpy(new)) for _, new in pairs]
    for old, _ in pairs:
        old.assign(old + 1)
    for (_, new), values in zip(pairs, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(new), values)


@pytest.mark.once
def test_what_is_computed_of_kept_tokens_stays(rng):
    backbone = tiny_backbone(SMALL_CONFIG)
    made = with_rows(backbone, KEPT)
    inputs = token_inputs(rng, [5, 3], [4, 2])
    new = {
        name: rng.integers(0, len(KEPT), size=x.shape) if name.endswith("ids") else x
        for name, x in inputs.items()
    }
    new["encoder_token_ids"][:, 1] = 3
    old = {name: KEPT[x] if name.endswith("ids") else x for name, x in new.items()}
    # The end of an image is the token 6, which is the token 3 now.
    moved = with_rows(backbone, KEPT, end_of_image_token_id=3)
    key = "decoder_sequence_output"
    calls = (backbone, old), (moved, new), (made, new)
    want, got, other = (ops.convert_to_numpy(model(x)[key]) for model, x in calls)
    is_token = inputs["decoder_padding_mask"] == 1
    np.testing.assert_allclose(got[is_token], want[is_token], atol=1e-6)
    assert np.abs(other[is_token] - want[is_token]).max() > 1e-3


@pytest.mark.once
def test_settings_come_along():
    backbone = tiny_backbone(dtype="bfloat16")
    backbone.gradient_checkpointing, backbone.source = True, "google/t5gemma-2-270m-270m"
    backbone.vision.tower.trainable = True
    made = with_rows(backbone, KEPT)
    assert made.gradient_checkpointing and made.source == backbone.source
    assert made.vision.tower.trainable and made.compute_dtype == "bfloat16"
    assert keras.backend.standardize_dtype(made.weights[0].dtype) == "bfloat16"
