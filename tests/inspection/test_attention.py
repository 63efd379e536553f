"""Attention weights, against the reference's, and where images are in them."""

import numpy as np
import pytest
import torch
from reference_inputs import make_inputs, pad, reference_arguments
from reference_models import IMAGE, load_ours, tiny_reference
from tasks import small_task, tiny_task
from tolerances import TOLERANCE

from keras_t5gemma2 import ImageFeatures, T5Gemma2Seq2SeqLM
from keras_t5gemma2.inspection import attention

ROW = {"encoder_text": "what is in the garden", "decoder_text": "a red bee and a house"}


@pytest.mark.once
@pytest.mark.parametrize("side", ["left", pytest.param("right", marks=pytest.mark.once)])
def test_weights_are_those_of_the_reference(side):
    """Of three rows with 1, 2 and 0 images, some of them padded, in sliding and full layers."""
    reference = tiny_reference()
    reference.set_attn_implementation("eager")
    lm = T5Gemma2Seq2SeqLM(load_ours(reference))
    inputs = pad(make_inputs(), side)
    with torch.no_grad():
        want = reference(**reference_arguments(inputs), output_attentions=True)
    found = lm.attention(inputs)
    assert [len(of_row.images) for of_row in found] == [1, 2, 0]
    for row, of_row in enumerate(found):
        seen = np.flatnonzero(inputs["encoder_padding_mask"][row])
        read = np.flatnonzero(inputs["decoder_padding_mask"][row])[:-1]
        own = np.stack([x[row].numpy() for x in want.decoder_attentions])
        over_encoder = np.stack([x[row].numpy() for x in want.cross_attentions])
        own, over_encoder = (x[:, :, read] for x in (own, over_encoder))
        np.testing.assert_allclose(of_row.past, own[..., read], **TOLERANCE["float32"])
        np.testing.assert_allclose(of_row.encoder, over_encoder[..., seen], **TOLERANCE["float32"])
        of_images = np.flatnonzero(inputs["encoder_token_ids"][row] == IMAGE)
        for image, places in zip(of_row.images, of_images.reshape(-1, 4), strict=True):
            want_of_image = over_encoder[..., places].reshape(*image.shape)
            np.testing.assert_allclose(image, want_of_image, **TOLERANCE["float32"])
        assert of_row.tokens == [str(i) for i in inputs["decoder_token_ids"][row, read + 1]]


@pytest.mark.once
def test_blocks_give_the_same_weights(monkeypatch):
    lm = small_task()
    whole = lm.attention(ROW)
    assert len(whole.tokens) > 4
    monkeypatch.setattr(attention, "_BLOCK_BYTES", 4 * 6 * 80 * 2)  # two tokens at a time
    seen = []
    of_block = attention._of_block
    monkeypatch.setattr(attention, "_of_block", lambda *a: seen.append(a[0]) or of_block(*a))
    lm = small_task()
    prompted = {**ROW, "decoder_text": "a dog"}
    for got, want in [
        (lm.attention(ROW), whole),
        (lm.attention(prompted, output="a cat"), small_task().attention(prompted, output="a cat")),
    ]:
        np.testing.assert_allclose(got.past, want.past, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.encoder, want.encoder, rtol=1e-5, atol=1e-6)
    assert set(seen) == {2}


@pytest.mark.once
def test_past_and_encoder_are_one_softmax():
    lm = small_task()
    found = lm.attention(ROW)
    layers, heads = 1, 6
    count = len(found.tokens)
    assert found.past.shape == (layers, heads, count, count)
    assert found.encoder.shape == (layers, heads, count, len(found.encoder_tokens))
    assert found.past.dtype == found.encoder.dtype == "float32"
    np.testing.assert_allclose(found.past.sum(-1) + found.encoder.sum(-1), 1, rtol=1e-5)
    assert (found.past[0] == 0)[:, *np.triu_indices(count, 1)].all()  # nothing sees what comes
    far = np.tril_indices(count, -5)  # nor what is outside of the window
    assert len(far[0]) and (found.past[0] == 0)[:, *far].all()


@pytest.mark.once
def test_images_are_parts_of_the_encoders_weights():
    lm = tiny_task()
    images = list(np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), "uint8"))
    row = {"encoder_text": "<start_of_image> the cat <start_of_image>", "images": images}
    found = lm.attention(row, output="a dog")
    assert len(found.images) == 2
    places = [i for i, token in enumerate(found.encoder_tokens) if token == "<image_soft_token>"]
    for number, (image, picture) in enumerate(zip(found.images, found.pictures, strict=True)):
        assert image.shape[-2:] == (2, 2) and np.shares_memory(image, found.encoder)
        of_image = found.encoder[..., places[4 * number : 4 * number + 4]]
        np.testing.assert_array_equal(image.reshape(of_image.shape), of_image)
        np.testing.assert_array_equal(picture, images[number])
    features = lm.precompute(row)["images"]
    assert isinstance(features[0], ImageFeatures)
    found_again = lm.attention({**row, "images": features}, output="a dog")
    assert found_again.pictures == [None, None]
    np.testing.assert_allclose(found_again.images[1], found.images[1], rtol=1e-4, atol=1e-6)


@pytest.mark.once
def test_weights_that_are_not_finite_are_an_error():
    lm = small_task()
    lm.backbone.decoder.blocks[0].attention.query_norm.scale.assign([np.nan] * 8)
    with pytest.raises(ValueError, match="The attention weights of row 0"):
        lm.attention(ROW)
