"""The tokens of a single row, which devices compute together."""

import dataclasses

import keras
import numpy as np
import pytest
from meshes import device_mesh
from tasks import SMALL_ROWS, small_task
from tiny_models import FULL, LOCAL, TEXT_CONFIG, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import AttentionConfig, StackConfig, distribution
from keras_t5gemma2.kernels import KeyValues
from keras_t5gemma2.sharding.tokens import TokenShards, token_shards

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)


@pytest.fixture
def no_distribution():
    yield
    keras.distribution.set_distribution(None)


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
    rows = {name: texts[0] for name, texts in SMALL_ROWS.items()}
    history = lm.fit([rows], batch_size=1, epochs=3, verbose=0).history["loss"]
    evaluated = lm.evaluate([rows], batch_size=1, verbose=0)
    return history, lm.generate(rows, max_new_tokens=5, stop_token_ids=None), evaluated


@pytest.mark.slow
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


@pytest.mark.parametrize(("length", "part"), [(8, 2), (5, 2), (1, 1)])
def test_parts_of_a_row_and_the_row_again(length, part):
    shards = TokenShards(device_mesh(4, 2), "batch", length)
    x = np.arange(1.0, 1 + 3 * length).reshape(1, length, 3)
    parts = shards.split(keras.ops.convert_to_tensor(x), filler=-1.0)
    assert parts.shape == (4, part, 3)
    flat = np.asarray(parts).reshape(-1, 3)
    np.testing.assert_array_equal(flat[:length], x[0])
    assert (flat[length:] == -1).all()
    assert {shard.data.shape for shard in parts.addressable_shards} == {(1, part, 3)}
    np.testing.assert_array_equal(np.asarray(shards.join(parts)), x)


def test_every_device_gets_the_keys_and_values_of_all_parts():
    shards = TokenShards(device_mesh(4, 2), "batch", 8)
    keys = np.arange(4 * 3 * 2 * 5.0).reshape(4, 3, 2, 5)  # parts, heads, tokens, width
    positions = np.arange(8).reshape(4, 2)
    whole = shards.whole(KeyValues(keys, 2 * keys, positions))
    assert whole.keys.shape == (1, 3, 8, 5)
    for token in range(8):
        np.testing.assert_array_equal(whole.keys[0, :, token], keys[token // 2, :, token % 2])
        np.testing.assert_array_equal(whole.values[0, :, token], 2 * whole.keys[0, :, token])
    np.testing.assert_array_equal(whole.positions, [np.arange(8)])


def test_when_tokens_are_spread(no_distribution):
    assert token_shards((1, 8, 3)) is None
    chosen = distribution.distribute(context_parallel=True, verbose=False)
    found = token_shards((1, 8, 3))
    assert found == TokenShards(chosen.device_mesh, "batch", 8) and found.count == 8
    assert token_shards((2, 8, 3)) is None and token_shards((1, None, 3)) is None
    distribution.distribute(verbose=False)
    assert token_shards((1, 8, 3)) is None
