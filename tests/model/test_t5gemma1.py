"""T5Gemma 1: the same numbers and gradients as the reference, and as its authors see windows."""

import numpy as np
import pytest
import torch
from gradients import Gradients, relative_error, step_gradients
from reference_inputs import reference_arguments
from reference_models import our_logits
from reference_t5gemma1 import WINDOW, load_ours, text_inputs, tiny_t5gemma1
from tasks_t5gemma1 import CONFIG, t5gemma1_backbone

from keras_t5gemma2 import T5Gemma2Backbone, T5GemmaBackbone, T5GemmaSeq2SeqLM, presets
from keras_t5gemma2.checkpoints.transformers.names import canonical_name, rows
from keras_t5gemma2.model.loading import shapes_only
from keras_t5gemma2.planning.weights import first_generation

ATOL = 1e-5  # of logits of size up to 3


@pytest.fixture(scope="module")
def pair():
    reference = tiny_t5gemma1()
    return reference, load_ours(reference)


def check_same_logits(reference, ours, inputs, **others):
    with torch.no_grad():
        want = reference(**{**reference_arguments(inputs), **others}).logits.numpy()
    there = inputs["decoder_padding_mask"].astype(bool)
    np.testing.assert_allclose(our_logits(ours, inputs)[there], want[there], rtol=0, atol=ATOL)


@pytest.mark.parametrize("side", ["left", pytest.param("right", marks=pytest.mark.once)])
def test_logits_within_the_encoders_window(pair, side):
    check_same_logits(*pair, text_inputs(side=side))


@pytest.mark.once
def test_published_caps_and_one_width():
    """Scores and logits capped at 50 and 30, heads of their own, and no cap at all."""
    for caps in ((50.0, 30.0), (None, None)):
        stack = {"attn_logit_softcapping": caps[0], "final_logit_softcapping": caps[1]}
        stack |= {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
        reference = tiny_t5gemma1(1, stack)
        check_same_logits(reference, load_ours(reference), text_inputs())


def written_out_masks(inputs):
    """What each query of the encoder sees, as T5Gemma's authors have it: |i - j| < W.

    transformers from 5.0 on sees |i - j| <= W, a token more on each side.
    """
    mask = inputs["encoder_padding_mask"].astype(bool)
    places = np.arange(mask.shape[1])
    is_near = np.abs(places[:, None] - places) < WINDOW
    seen = {"full_attention": mask[:, None, None, :], "sliding_attention": mask[:, None, None, :]}
    seen["sliding_attention"] = seen["sliding_attention"] & is_near
    shape, hidden = (len(mask), 1, *is_near.shape), np.finfo("float32").min
    return {
        name: torch.tensor(np.where(np.broadcast_to(x, shape), 0.0, hidden), dtype=torch.float32)
        for name, x in seen.items()
    }


def encoded_as_written_out(reference, inputs):
    with torch.no_grad():
        ids = torch.tensor(inputs["encoder_token_ids"])
        return reference.model.encoder(input_ids=ids, attention_mask=written_out_masks(inputs))


@pytest.mark.parametrize("length", [23, pytest.param(300, marks=pytest.mark.once)])
def test_logits_beyond_the_window(pair, length):
    """Above 256 tokens other kernels compute the attention."""
    reference, ours = pair
    inputs = text_inputs(length, 19, side="left")
    encoded = encoded_as_written_out(reference, inputs)
    check_same_logits(reference, ours, inputs, encoder_outputs=encoded)
    with pytest.raises(AssertionError):  # the reference's own mask is another one
        check_same_logits(reference, ours, inputs)


def test_loss_and_gradients(pair):
    reference, backbone = pair
    lm = T5GemmaSeq2SeqLM(backbone)
    lm.compile(optimizer=Gradients())
    inputs = text_inputs(side="right")
    labels = np.random.default_rng(1).integers(10, 101, size=inputs["decoder_token_ids"].shape)
    weights = inputs["decoder_padding_mask"].astype("float32")
    loss, gradients = step_gradients(lm, (inputs, labels, weights))
    reference.zero_grad()
    ignored = torch.tensor(np.where(weights > 0, labels, -100))
    want = reference(**reference_arguments(inputs), labels=ignored).loss
    want.backward()
    np.testing.assert_allclose(loss, want.item(), rtol=1e-5)
    theirs = {
        canonical_name(name, True): p.grad.numpy() for name, p in reference.named_parameters()
    }
    table = {row.path: row for row in rows(backbone.config)}
    assert set(gradients) == set(table)
    for path, row in table.items():
        wanted = row.layout.to_variable(theirs[row.name])
        assert relative_error(gradients[path], wanted) < 1e-5, path


@pytest.mark.once
def test_gradients_are_the_same_with_less_memory():
    def gradients(**options):
        backbone = t5gemma1_backbone()
        backbone.gradient_checkpointing = options.pop("checkpointing", False)
        lm = T5GemmaSeq2SeqLM(backbone)
        lm.compile(optimizer=Gradients())
        inputs = text_inputs(side="right")
        labels = np.ones_like(inputs["decoder_token_ids"])
        return step_gradients(lm, (inputs, labels, np.ones(labels.shape, "float32")))[1]

    plain, recomputed = gradients(), gradients(checkpointing=True)
    for path, gradient in plain.items():
        assert relative_error(recomputed[path], gradient) < 1e-5, path


@pytest.mark.once
@pytest.mark.parametrize(
    "name",
    [
        name if name == "t5gemma_s_s_ul2" else pytest.param(name, marks=pytest.mark.slow)
        for name in presets
        if name.startswith("t5gemma_") and name.endswith("_ul2")
    ],
)
def test_parameters_of_the_published_sizes(name):
    config = first_generation(*name.split("_")[1:3])
    backbone = shapes_only(lambda: T5GemmaBackbone(config))
    assert backbone.count_params() == presets[name]["metadata"]["params"]


@pytest.mark.once
def test_a_config_of_the_other_generation_is_refused():
    with pytest.raises(ValueError, match="a T5Gemma 1. For it there is `T5GemmaBackbone`"):
        T5Gemma2Backbone(CONFIG)
    config = T5Gemma2Backbone.from_preset("t5gemma2_tiny", load_weights=False).config
    with pytest.raises(ValueError, match="a T5Gemma 2. For it there is `T5Gemma2Backbone`"):
        T5GemmaBackbone(config)
