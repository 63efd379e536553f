"""Batches that the devices cannot divide."""

import keras
import numpy as np
import pytest
from meshes import distributed, distributed_not_at_all
from tasks import SMALL_ROWS, small_task, tiny_task
from tolerances import TOLERANCE

from keras_t5gemma2.sharding import batch

on_jax = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)
FIVE_ROWS = {name: (texts * 3)[:5] for name, texts in SMALL_ROWS.items()}


@pytest.fixture(scope="module")
def alone():
    lm = small_task()
    return {
        "loss": lm.evaluate(FIVE_ROWS, batch_size=4, verbose=0, return_dict=True),
        "logits": lm.predict(FIVE_ROWS, batch_size=4, verbose=0),
        "score": lm.score(FIVE_ROWS),
    }


def first(rows):
    return {name: texts[0] for name, texts in rows.items()}


@on_jax
@pytest.mark.slow
def test_rows_are_added_and_do_not_count(alone):
    with distributed(4, 2):
        lm = small_task()
        loss = lm.evaluate(FIVE_ROWS, batch_size=4, verbose=0, return_dict=True)
        logits = lm.predict(FIVE_ROWS, batch_size=4, verbose=0)
        score = lm.score(FIVE_ROWS)
    for name, value in alone["loss"].items():
        np.testing.assert_allclose(loss[name], value, **TOLERANCE["float32"])
    np.testing.assert_allclose(logits, alone["logits"], **TOLERANCE["float32"])
    np.testing.assert_allclose(score, alone["score"], **TOLERANCE["float32"])


@on_jax
@pytest.mark.slow
def test_other_ways_to_generate():
    """Streamed, of what was encoded before, with an assistant, of keys and values not kept."""
    expected = generated_otherwise()
    with distributed(4, 2):
        assert generated_otherwise() == expected
    with keras.distribution.DataParallel().scope():
        assert generated_otherwise() == expected


def generated_otherwise():
    lm = small_task()
    row, options = first(SMALL_ROWS), {"max_new_tokens": 4, "stop_token_ids": None}
    prompts = {"decoder_text": SMALL_ROWS["decoder_text"] * 2}
    return [
        list(lm.stream(SMALL_ROWS, **options)),
        lm.generate(prompts, encoded=lm.encode(row), **options),
        lm.generate(SMALL_ROWS, assistant="prompt_lookup", **options),
        lm.generate(SMALL_ROWS, cross_attention_cache="shared", **options),
    ]


@on_jax
def test_a_loss_of_the_users_own_sees_no_rows_that_were_added():
    with distributed(4, 2):
        lm = small_task()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        lm.compile(optimizer="sgd", loss=loss)
        with pytest.raises(ValueError, match="a multiple of 4.*a batch of 1 rows"):
            lm.evaluate(FIVE_ROWS, batch_size=4, verbose=0)


@on_jax
@pytest.mark.slow
def test_images_of_a_mixed_batch():
    image = np.random.default_rng(0).integers(0, 256, size=(28, 28, 3)).astype("uint8")
    rows = {
        "encoder_text": ["<start_of_image> what", "the cat", "<start_of_image> the dog"],
        "images": [image, None, image[::-1]],
    }
    expected = tiny_task().generate(rows, max_new_tokens=4)
    with distributed(4, 2):
        assert tiny_task().generate(rows, max_new_tokens=4) == expected


def test_without_a_distribution_all_rows_go_to_one_device():
    assert batch.row_parts() == 1 and batch.data_axis() is None
    assert not batch.shares_single_rows()
    found = batch.to_devices({"ids": np.arange(3, dtype="int32"), "number": np.float32(2)})
    assert keras.backend.standardize_dtype(found["ids"].dtype) == "int32"
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found["ids"]), [0, 1, 2])
    rows = {"ids": np.ones((5, 2))}
    assert batch.of_rows(lambda inputs: inputs, rows) is rows


@pytest.mark.once
def test_missing_rows_are_copies_of_the_last_one():
    rows = {"ids": np.array([[1, 2], [3, 4]]), "nothing": None}
    filled = batch.with_rows(rows, 4)
    assert filled["ids"].tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert filled["nothing"] is None
    assert batch.with_rows(rows, 2)["ids"] is rows["ids"]


@on_jax
def test_rows_are_dealt_out_over_the_data_axis():
    with distributed(4, 2) as distribution:
        assert batch.row_parts() == 4
        assert batch.data_axis() == (distribution.device_mesh, "batch", 4)
        whole = batch.to_devices(np.ones((6, 3)))
        spread = batch.to_devices(np.ones((8, 3)))
    assert whole.sharding.is_fully_replicated
    assert {shard.data.shape for shard in spread.addressable_shards} == {(2, 3)}
    with distributed(1, 8):
        assert batch.row_parts() == 1 and batch.data_axis() is None


@on_jax
def test_a_function_sees_whole_parts_and_gives_the_rows_there_are():
    shapes = []

    def function(inputs):
        shapes.append(inputs["x"].shape)
        return {"twice": 2 * inputs["x"]}

    x = np.arange(10.0).reshape(5, 2)
    with distributed(4, 2):
        found = batch.of_rows(function, {"x": x})
        batch.of_rows(function, {"x": x[:4]})
    assert shapes == [(8, 2), (4, 2)]
    np.testing.assert_array_equal(found["twice"], 2 * x)


@on_jax
def test_the_recipe_s_distribution_shares_single_rows(monkeypatch):
    with distributed(4, 2) as distribution:
        assert not batch.shares_single_rows()
        monkeypatch.setattr(distribution, "shares_single_rows", True, raising=False)
        assert batch.shares_single_rows()
        with distributed_not_at_all():
            assert not batch.shares_single_rows()
