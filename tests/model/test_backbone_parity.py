"""The same numbers as the reference implementation, on random weights, at unpadded positions."""

import numpy as np
import pytest
import torch
from keras import ops
from reference_inputs import make_inputs, pad, reference_arguments
from reference_models import load_ours, our_logits, tiny_reference
from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

# Of logits of size up to 8, after up to 7 layers.
ATOL = 1e-5

_SLIDING, _FULL = "sliding_attention", "full_attention"
_NO_FACTOR = {
    "rope_parameters": {
        _FULL: {"rope_type": "default", "rope_theta": 1e6},
        _SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    }
}


@pytest.fixture(scope="module")
def pair():
    reference = tiny_reference()
    return reference, load_ours(reference)


def reference_logits(model, inputs, dtype=torch.float32):
    with torch.no_grad():
        return model(**reference_arguments(inputs, dtype)).logits.float().numpy()


def largest_difference(reference, ours, inputs):
    there = inputs["decoder_padding_mask"].astype(bool)
    difference = our_logits(ours, inputs) - reference_logits(reference, inputs)
    return np.abs(difference[there]).max()


@pytest.mark.parametrize("side", ["right", "left"])
def test_images_special_ids_and_padding(pair, side):
    assert largest_difference(*pair, pad(make_inputs(), side)) < ATOL


@pytest.mark.once
def test_text_only_call(pair):
    assert largest_difference(*pair, pad(make_inputs(images=False), "right")) < ATOL


@pytest.mark.parametrize(
    ("text", "encoder", "decoder", "overrides"),
    [
        # Multi-head and multi-query attention, an odd window, no factor of positions.
        (
            {"sliding_window": 5, **_NO_FACTOR},
            {"num_key_value_heads": 4},
            {"num_key_value_heads": 4},
            {},
        ),
        # Windows of each side's own, one of a single token; a soft cap; a decoder of one layer.
        (
            {},
            {"num_key_value_heads": 1, "sliding_window": 1},
            {
                "sliding_window": 9,
                "num_hidden_layers": 1,
                "layer_types": [_SLIDING],
                "final_logit_softcapping": 3.0,
            },
            {},
        ),
    ],
    ids=["mha_odd_window_no_factor", "mqa_own_windows_soft_cap"],
)
def test_shapes(text, encoder, decoder, overrides):
    reference = tiny_reference(1, text, encoder, decoder, **overrides)
    inputs = pad(make_inputs(), "left")
    assert largest_difference(reference, load_ours(reference), inputs) < ATOL


@pytest.mark.once
def test_batch_of_one_and_prompt_of_one_token(pair):
    inputs = {name: value[:1] for name, value in make_inputs(images=False).items()}
    for name in ("decoder_token_ids", "decoder_padding_mask"):
        inputs[name] = inputs[name][:, :1]
    assert largest_difference(*pair, inputs) < ATOL


@pytest.mark.once
def test_bfloat16_errs_no_more_than_the_reference():
    """Both against float32: root mean square over the logits of two models, 128 rows of text."""
    squares = np.zeros(2)
    for seed in (0, 1):
        exact = tiny_reference(seed)
        rng = np.random.default_rng(seed)
        inputs = {
            "encoder_token_ids": rng.integers(10, 101, size=(64, 31)),
            "encoder_padding_mask": np.ones((64, 31), "int32"),
            "decoder_token_ids": rng.integers(10, 101, size=(64, 17)),
            "decoder_padding_mask": np.ones((64, 17), "int32"),
        }
        want = reference_logits(exact, inputs)
        ours = our_logits(load_ours(exact, dtype="bfloat16"), inputs)
        theirs = reference_logits(exact.bfloat16(), inputs)
        squares += [np.mean((logits - want) ** 2) for logits in (ours, theirs)]
    ours, theirs = np.sqrt(squares / 2)
    assert 0 < ours <= theirs, (ours, theirs)


@pytest.mark.once  # minutes in all
@pytest.mark.slow
def test_the_published_270m_text_shape():
    """Widths, heads, windows, vocabulary and depth of 270m-270m, past its window of 512."""
    reference = _reference_270m()
    ours = load_ours(reference, text_only=True)
    assert ours.count_params() == 368_424_832
    rng = np.random.default_rng(0)
    encoder, decoder = (rng.integers(0, 262_144, size=(1, length)) for length in (600, 530))
    encoder[0, 7], decoder[0, 3] = 256_000, 256_000
    inputs = {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": np.ones_like(encoder),
        "decoder_token_ids": decoder,
        "decoder_padding_mask": np.ones_like(decoder),
    }
    with torch.no_grad():
        want = reference.model(
            input_ids=torch.tensor(encoder), decoder_input_ids=torch.tensor(decoder)
        ).last_hidden_state.numpy()
    got = ours.predict_on_batch(inputs)["decoder_sequence_output"]
    # 18 layers over states of size 20 before the last norm.
    np.testing.assert_allclose(ops.convert_to_numpy(got), want, rtol=0, atol=1e-4)


def _reference_270m():
    """The published text shape with random weights; its vision tower, unused here, is tiny."""
    rope = {
        _FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        _SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    }
    text = {
        "vocab_size": 262_144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 512,
        "rope_parameters": rope,
    }
    vision = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 3, "image_size": 56, "patch_size": 14}
    encoder = {"text_config": text, "mm_tokens_per_image": 16}
    encoder["vision_config"] = {"model_type": "siglip_vision_model", **vision}
    config = T5Gemma2Config(encoder=encoder, decoder=text, image_token_index=256_001)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5Gemma2ForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "eoi" in name:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    return model
