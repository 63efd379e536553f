"""The same tokens as the reference's `generate`, on random weights."""

import keras_hub
import numpy as np
import pytest
import torch
from reference_models import END_OF_IMAGE, IMAGE, load_ours, tiny_reference

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

NEW_TOKENS = 19  # more than three windows


@pytest.fixture(scope="module")
def pair():
    reference = tiny_reference()
    return reference, T5Gemma2Seq2SeqLM(load_ours(reference))


def make_inputs(prompt_length):
    """Three rows: left, no and right padding in the encoder; 1, 2 and 0 images."""
    rng = np.random.default_rng(0)
    encoder = rng.integers(10, 101, size=(3, 31))
    encoder[0, 6:10] = encoder[1, 5:9] = encoder[1, 9:13] = IMAGE
    mask = np.ones_like(encoder)
    mask[0, :4], mask[2, 25:] = 0, 0
    prompt = rng.integers(10, 101, size=(3, prompt_length))
    prompt[:, 0] = 2
    if prompt_length > 2:
        prompt[:, 2] = END_OF_IMAGE
    return {
        "encoder_token_ids": encoder,
        "encoder_padding_mask": mask,
        "decoder_token_ids": prompt,
        "decoder_padding_mask": np.ones_like(prompt),
        "images": rng.uniform(-1, 1, size=(3, 2, 28, 28, 3)).astype("float32"),
    }


def reference_tokens(model, inputs, **options):
    """(rows, prompt and new tokens), 0 after a row's end."""
    images = inputs["images"]
    pixels = np.concatenate([images[0, :1], images[1]]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        return model.generate(
            input_ids=torch.tensor(inputs["encoder_token_ids"]),
            attention_mask=torch.tensor(inputs["encoder_padding_mask"]),
            decoder_input_ids=torch.tensor(inputs["decoder_token_ids"]),
            pixel_values=torch.tensor(pixels),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            bos_token_id=2,
            decoder_start_token_id=2,
            pad_token_id=0,
            **options,
        ).numpy()


def assert_tokens_equal(got, want):
    """Rows without padding; the reference ends its array with the longest row."""
    ids, mask = got["decoder_token_ids"], got["decoder_padding_mask"]
    for row, there, wanted in zip(ids, mask, want, strict=True):
        length = there.sum()
        assert row[:length].tolist() == wanted[:length].tolist()
        assert not wanted[length:].any()


@pytest.mark.once
@pytest.mark.parametrize("prompt_length", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_greedy(pair, prompt_length):
    reference, lm = pair
    inputs = make_inputs(prompt_length)
    lm.compile(sampler="greedy")
    got = lm.generate(inputs, stop_token_ids=None, max_new_tokens=NEW_TOKENS)
    assert_tokens_equal(got, reference_tokens(reference, inputs, eos_token_id=None))


@pytest.mark.once
def test_greedy_with_stop_tokens(pair):
    """Two ids that come up at different times in different rows end those rows."""
    reference, lm = pair
    inputs = make_inputs(1)
    free = reference_tokens(reference, inputs, eos_token_id=None)
    stops = [int(free[0, 5]), int(free[1, 12])]
    lm.compile(sampler="greedy")
    got = lm.generate(inputs, stop_token_ids=stops, max_new_tokens=NEW_TOKENS)
    assert_tokens_equal(got, reference_tokens(reference, inputs, eos_token_id=stops))
    assert sorted(got["decoder_padding_mask"].sum(1).tolist())[0] <= 6


@pytest.mark.once
@pytest.mark.parametrize(
    "sampler", [pytest.param("keras_hub object", marks=pytest.mark.once), "name"]
)
def test_beam_search(pair, sampler):
    reference, lm = pair
    inputs = make_inputs(4)
    num_beams = 5 if sampler == "name" else 3
    greedy = reference_tokens(reference, inputs, eos_token_id=None)
    stops = [int(greedy[0, 9])]
    lm.compile(sampler="beam" if sampler == "name" else keras_hub.samplers.BeamSampler(num_beams=3))
    got = lm.generate(inputs, stop_token_ids=stops, max_new_tokens=NEW_TOKENS)
    want = reference_tokens(reference, inputs, eos_token_id=stops, num_beams=num_beams)
    assert_tokens_equal(got, want)
