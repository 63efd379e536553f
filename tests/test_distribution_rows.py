"""Batches that the devices cannot divide, and a single row that they compute together."""

import dataclasses

import keras
import numpy as np
import pytest
from meshes import distributed
from tasks import SMALL_ROWS, small_task, tiny_task
from tiny_models import FULL, LOCAL, TEXT_CONFIG, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import AttentionConfig, StackConfig, distribution

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)
FIVE_ROWS = {name: (texts * 3)[:5] for name, texts in SMALL_ROWS.items()}


@pytest.fixture
def no_distribution():
    yield
    keras.distribution.set_distribution(None)


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


def test_a_loss_of_the_users_own_sees_no_rows_that_were_added():
    with distributed(4, 2):
        lm = small_task()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        lm.compile(optimizer="sgd", loss=loss)
        with pytest.raises(ValueError, match="a multiple of 4.*a batch of 1 rows"):
            lm.evaluate(FIVE_ROWS, batch_size=4, verbose=0)


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


# Tokens of a single row -------------------------------------------------------------------------

LONG = 300  # more than a block of queries on each of two devices, and a multiple of neither 8
LONG_CONFIG = dataclasses.replace(
    TEXT_CONFIG,
    encoder=dataclasses.replace(TEXT_CONFIG.encoder, layers=(LOCAL, FULL)),
    decoder=dataclasses.replace(TEXT_CONFIG.decoder, layers=(LOCAL,)),
)


def long_inputs():
    inputs = token_inputs(np.random.default_rng(0), [LONG], [5])
    inputs["encoder_padding_mask"][:, -7:] = 0
    return inputs


@pytest.fixture(scope="module")
def expected_of_long():
    return tiny_backbone(LONG_CONFIG).predict_on_batch(long_inputs())


@pytest.mark.parametrize("parts", [1, 3])
def test_tokens_of_a_single_row(no_distribution, expected_of_long, parts):
    devices = keras.distribution.list_devices()[: 2 * parts]
    options = {"devices": devices, "verbose": False}
    distribution.distribute(model_parallel=parts, context_parallel=True, **options)
    outputs = tiny_backbone(LONG_CONFIG).predict_on_batch(long_inputs())
    encoded = outputs["encoder_sequence_output"][:, : LONG - 7]
    expected = expected_of_long["encoder_sequence_output"][:, : LONG - 7]
    np.testing.assert_allclose(encoded, expected, **TOLERANCE["float32"])
    name = "decoder_sequence_output"
    np.testing.assert_allclose(outputs[name], expected_of_long[name], **TOLERANCE["float32"])


@pytest.mark.slow
def test_training_and_generating_on_a_single_row(no_distribution):
    expected = results_of_one_row()
    distribution.distribute(model_parallel=2, context_parallel=True, verbose=False)
    history, text, losses = results_of_one_row()
    np.testing.assert_allclose(history, expected[0], **TOLERANCE["float32"])
    assert text == expected[1]
    np.testing.assert_allclose(losses, expected[2], **TOLERANCE["float32"])


def results_of_one_row():
    lm = small_task(learning_rate=0.1)
    lm.backbone.gradient_checkpointing = True
    rows = first(SMALL_ROWS)
    history = lm.fit([rows], batch_size=1, epochs=3, verbose=0).history["loss"]
    evaluated = lm.evaluate([rows], batch_size=1, verbose=0)
    return history, lm.generate(rows, max_new_tokens=5, stop_token_ids=None), evaluated


def test_activations_of_a_long_input_shrink(no_distribution):
    """By eight, but for what is as large for any input, and the keys and values of a layer."""

    def bytes_of_more_tokens():
        return bytes_of_encoder(131_072) - bytes_of_encoder(65_536)

    alone = bytes_of_more_tokens()
    distribution.distribute(context_parallel=True, verbose=False)
    assert bytes_of_more_tokens() < 0.25 * alone


def bytes_of_encoder(length):
    """What a device needs beside the weights to encode a row, as the compiler says."""
    import jax

    local = AttentionConfig(num_heads=8, num_kv_heads=1, head_dim=8, window=64)
    layers = (local, dataclasses.replace(local, window=None))
    stack = StackConfig(hidden_dim=64, mlp_dim=128, layers=layers)
    backbone = tiny_backbone(dataclasses.replace(TEXT_CONFIG, encoder=stack, decoder=stack))
    variables = backbone.variables

    def encode(values, token_ids, padding_mask):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return backbone.encode(token_ids, padding_mask)

    ids = np.ones((1, length), "int32")
    values = [variable.value for variable in variables]
    memory = jax.jit(encode).lower(values, ids, ids).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


# The recipe -------------------------------------------------------------------------------------


def test_the_recipe_says_what_it_chose(no_distribution, capsys):
    chosen = distribution.distribute(TEXT_CONFIG, model_parallel=2, fsdp=True)
    said = capsys.readouterr().out
    assert "8 cpu devices: rows over 4, weights over 2 and, by their width, over the 4" in said
    assert "attention/key/kernel" in said  # three heads
    backbone = tiny_backbone(TEXT_CONFIG)
    share = distribution.bytes_per_device(backbone, chosen)
    assert f"Weights: {share / 1e6:,.1f} MB on each device" in said
    assert keras.distribution.distribution() is chosen


def test_the_recipe_without_a_model(no_distribution, capsys):
    distribution.distribute(context_parallel=True)
    said = capsys.readouterr().out
    assert said.startswith("8 cpu devices: rows over 8, weights over 1\n")
    assert "tokens of a single row are spread over 8" in said


@pytest.mark.parametrize(
    "memory, parts, fsdp", [(None, 1, False), (2.1, 1, False), (1.9, 2, False), (0.5, 2, True)]
)
def test_the_recipe_goes_by_memory(no_distribution, monkeypatch, memory, parts, fsdp):
    """`memory` of a device, in sizes of the model. Of its six heads only two parts can be made."""
    backbone = tiny_backbone(TEXT_CONFIG)
    size = sum(4 * int(np.prod(v.shape)) for v in backbone.weights)
    monkeypatch.setattr(distribution, "device_memory", lambda _: memory and memory * size)
    chosen = distribution.distribute(TEXT_CONFIG, verbose=False)
    assert chosen.device_mesh.shape == (8 // parts, parts)
    axes = chosen.get_tensor_layout("encoder/layer_0/mlp/up/kernel").axes
    assert axes == ("batch" if fsdp else None, "model")


def test_wrong_numbers_of_parts(no_distribution):
    for number in (3, 0, 2.0):
        with pytest.raises(ValueError, match=f"which is 8. Received: model_parallel={number}"):
            distribution.distribute(model_parallel=number)
    assert keras.distribution.distribution() is None
