"""The loss of the reference on the same batch, and its gradient of every variable."""

import numpy as np
import pytest
import torch
from gradients import Gradients, relative_error, step_gradients
from reference_inputs import make_inputs, pad, reference_arguments
from reference_models import load_ours, tiny_reference

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.checkpoints.transformers.names import canonical_name, rows


@pytest.fixture(scope="module")
def pair():
    reference = tiny_reference()
    backbone = load_ours(reference)
    backbone.vision.tower.trainable = True
    lm = T5Gemma2Seq2SeqLM(backbone)
    lm.compile(optimizer=Gradients())
    return reference, lm


@pytest.mark.parametrize("side", ["right", pytest.param("left", marks=pytest.mark.once)])
def test_loss_and_gradients_with_images_and_padding(pair, side):
    """Rows of one, two and no images; labels that do not count wherever there is padding."""
    reference, lm = pair
    inputs = pad(make_inputs(), side)
    labels = np.random.default_rng(1).integers(10, 101, size=inputs["decoder_token_ids"].shape)
    weights = inputs["decoder_padding_mask"].astype("float32")
    weights[1, 3] = 0.0  # a token that is there and does not count
    loss, gradients = step_gradients(lm, (inputs, labels, weights))
    want_loss, want = reference_gradients(reference, inputs, np.where(weights > 0, labels, -100))

    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    variables = {row.path: row for row in rows(lm.backbone.config)}
    assert set(gradients) == set(variables)
    for path, row in variables.items():
        got, other = gradients[path], row.layout.to_variable(want[row.name])
        if path.endswith("key/bias"):
            # It moves all scores of a query alike: no loss depends on it, rounding aside.
            assert max(np.abs(got).max(), np.abs(other).max()) < 1e-7
        else:
            assert relative_error(got, other) < 1e-4, path


def reference_gradients(model, inputs, labels):
    """The reference's own loss, and its gradients as arrays by canonical name."""
    model.zero_grad()
    loss = model(**reference_arguments(inputs), labels=torch.tensor(labels)).loss
    loss.backward()
    gradients = {
        canonical_name(name): parameter.grad.numpy() for name, parameter in model.named_parameters()
    }
    return loss.item(), gradients
