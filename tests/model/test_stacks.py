"""The two stacks: positions of tokens, padding, and steps that are the whole sequence."""

import dataclasses

import numpy as np
import pytest
from keras import ops
from tiny_models import DECODER, ENCODER, randomize
from tolerances import TOLERANCE

from keras_t5gemma2.kernels import Window
from keras_t5gemma2.model.stacks import Decoder, Encoder, decoder_positions, encoder_positions

pytestmark = pytest.mark.once
WIDTH = DECODER.hidden_dim
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], "int32")


@pytest.fixture(scope="module")
def decoder():
    return stack(Decoder, DECODER)


def stack(cls, config):
    layer = cls(config)
    layer.build((None, None, WIDTH))
    randomize(layer)
    return layer


def tensor(rng, *shape):
    return ops.convert_to_tensor(rng.standard_normal(shape, "float32"))


def assert_near(got, want):
    got, want = (ops.convert_to_numpy(x) for x in (got, want))
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


def test_encoder_positions_count_padding():
    assert ops.convert_to_numpy(encoder_positions(MASK)).tolist() == [
        [-1, -1, 2, 3, 4],
        [0, 1, 2, -1, -1],
        [0, -1, 2, -1, 4],
        [-1, -1, -1, -1, -1],
    ]


def test_decoder_positions_do_not():
    assert ops.convert_to_numpy(decoder_positions(MASK.astype(bool))).tolist() == [
        [-1, -1, 0, 1, 2],
        [0, 1, 2, -1, -1],
        [0, -1, 1, -1, 2],
        [-1, -1, -1, -1, -1],
    ]


def test_layers_get_the_windows_of_their_config():
    for cls, rule in ((Encoder, Window.bidirectional), (Decoder, Window.causal)):
        windows = [block.attention.window for block in cls(ENCODER).blocks]
        assert windows == [rule(5), rule(), rule(5)]


def test_what_stands_in_padding_of_the_encoder_changes_nothing(rng):
    encoder = stack(Encoder, dataclasses.replace(ENCODER, layers=ENCODER.layers[:2]))
    x, other = tensor(rng, 4, 5, WIDTH), tensor(rng, 4, 5, WIDTH)
    there = MASK[..., None] == 1
    got = encoder(ops.where(there, x, other), MASK)
    assert_near(ops.where(there, got, 0.0), ops.where(there, encoder(x, MASK), 0.0))
    assert got.shape == x.shape


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_step_over_all_tokens_is_the_whole_sequence(rng, decoder, is_shared):
    x, encoded = tensor(rng, 4, 5, WIDTH), tensor(rng, 4, 6, WIDTH)
    of_encoder = np.array([[1] * 6, [0] * 3 + [1] * 3, [1] * 4 + [0] * 2, [1] * 6], "int32")
    want = decoder(x, MASK, encoded, of_encoder)
    memory = decoder.remember(encoded, of_encoder, is_shared)
    got, own = decoder.step(x, decoder_positions(MASK), memory)
    assert_near(got[:3], want[:3])
    assert [tuple(kv.keys.shape) for kv in own] == [(4, 3, 5, 8)] * 2
    assert len(memory.shared) == is_shared and len(memory.layers) == 2


def test_rows_in_turn_may_share_a_row_of_the_memory(rng, decoder):
    x, encoded = tensor(rng, 4, 3, WIDTH), tensor(rng, 2, 6, WIDTH)
    positions = decoder_positions(np.ones((4, 3)))
    memory = decoder.remember(encoded, np.ones((2, 6)))
    repeated = decoder.remember(ops.repeat(encoded, 2, axis=0), np.ones((4, 6)))
    got, want = (decoder.step(x, positions, seen)[0] for seen in (memory, repeated))
    assert_near(got, want)


def test_a_later_token_goes_into_its_slot_and_sees_the_earlier_ones(rng, decoder):
    x, encoded = tensor(rng, 2, 4, WIDTH), tensor(rng, 2, 6, WIDTH)
    memory = decoder.remember(encoded, np.ones((2, 6)))
    positions = decoder_positions(np.ones((2, 4)))
    want, _ = decoder.step(x, positions, memory)
    _, own = decoder.step(x[:, :3], positions[:, :3], memory)
    past = [
        kv._replace(
            keys=ops.pad(kv.keys, [(0, 0), (0, 0), (0, 1), (0, 0)]),
            values=ops.pad(kv.values, [(0, 0), (0, 0), (0, 1), (0, 0)]),
            positions=positions,
        )
        for kv in own
    ]
    slot = ops.convert_to_tensor(3, dtype="int32")
    got, _ = decoder.step(x[:, 3:], positions[:, 3:], memory, past, [slot, slot])
    assert_near(got[:, 0], want[:, 3])


def test_an_output_s_spec_is_its_shape_and_dtype():
    import keras

    x = keras.KerasTensor((None, 7, WIDTH))
    spec = Encoder(ENCODER, dtype="bfloat16").compute_output_spec(x, None)
    assert (spec.shape, spec.dtype) == ((None, 7, WIDTH), "bfloat16")
