"""What classifiers share, and the reference's outputs, losses and gradients from the same files."""

import numpy as np
import pytest
import torch
import transformers
from gradients import Gradients, relative_error, step_gradients
from reference_models import END_OF_IMAGE, IMAGE, save_reference, tiny_reference

from keras_t5gemma2 import T5Gemma2TextClassifier, T5Gemma2TokenClassifier
from keras_t5gemma2.checkpoints.heads import REFERENCE_ROWS
from keras_t5gemma2.checkpoints.transformers.names import canonical_name, rows

LENGTHS = (9, 14)
CLASSES = {
    T5Gemma2TextClassifier: transformers.T5Gemma2ForSequenceClassification,
    T5Gemma2TokenClassifier: transformers.T5Gemma2ForTokenClassification,
}
# By name: the class, the number of classes, and labels of two rows.
CASES = {
    "classes": (T5Gemma2TextClassifier, 3, [2, 0]),
    "regression": (T5Gemma2TextClassifier, 1, [0.7, -1.3]),
    "several": (T5Gemma2TextClassifier, 3, [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
    "tokens": (T5Gemma2TokenClassifier, 4, None),
}


@pytest.fixture(scope="module")
def references():
    """The reference's model and ours from its files, by name of the case."""
    return {}


def pair_of(references, tmp_path_factory, case):
    cls, num_classes, _ = CASES[case]
    if (cls, num_classes) not in references:
        reference = tiny_reference(model_class=CLASSES[cls], num_labels=num_classes)
        path = save_reference(reference, tmp_path_factory.mktemp("reference"))
        ours = cls.from_preset(path)
        ours.backbone.vision.tower.trainable = True
        ours.compile(optimizer=Gradients())
        references[cls, num_classes] = reference, ours
    return references[cls, num_classes]


def batch(side="right", images=True):
    """Two rows of different lengths, padded; the second one with an image."""
    rng = np.random.default_rng(0)
    longest = max(LENGTHS)
    ids, mask = np.zeros((2, 2, longest), "int32")
    for row, length in enumerate(LENGTHS):
        where = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[row, where], mask[row, where] = rng.integers(10, 101, size=length), 1
        ids[row, where][3] = END_OF_IMAGE
    ids[1, 4:8] = IMAGE
    pixels = rng.uniform(-1, 1, size=(2, 1, 28, 28, 3)).astype("float32")
    inputs = {"encoder_token_ids": ids, "encoder_padding_mask": mask}
    return {**inputs, "images": pixels} if images else inputs


def row_of(inputs, row):
    """One row as it is without the others, and as the reference takes it."""
    seen = inputs["encoder_padding_mask"][row].astype(bool)
    ids = inputs["encoder_token_ids"][row][seen][None]
    ours = {"encoder_token_ids": ids, "encoder_padding_mask": np.ones_like(ids)}
    theirs = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(ids.shape)}
    if row == 1:
        ours["images"] = inputs["images"][1:]
        theirs["pixel_values"] = torch.tensor(inputs["images"][1].transpose(0, 3, 1, 2))
    return ours, theirs


def labels_of(case, row, length):
    _, num_classes, labels = CASES[case]
    if labels is not None:
        return np.array(labels)[row : row + 1]
    tokens = np.random.default_rng(row).integers(num_classes, size=(1, length))
    tokens[:, ::3] = -100
    return tokens


@pytest.mark.once
@pytest.mark.parametrize(
    "case",
    ["classes", *(pytest.param(c, marks=pytest.mark.once) for c in CASES if c != "classes")],
)
def test_outputs_losses_and_gradients_are_the_references(references, tmp_path_factory, case):
    """Of each row alone: in a padded batch the reference shifts padding into its decoder."""
    reference, ours = pair_of(references, tmp_path_factory, case)
    tables = {row.path: row for row in rows(ours.backbone.config)}
    for row in (0, 1):
        inputs, arguments = row_of(batch(), row)
        labels = labels_of(case, row, inputs["encoder_token_ids"].shape[1])
        reference.zero_grad()
        kind = {"regression": "float32", "several": "float32"}.get(case, "int64")
        given = torch.tensor(labels.astype(kind))
        reference.config.problem_type = None  # it goes by the first labels, and keeps that
        want = reference(**arguments, labels=given)
        want.loss.backward()
        got = ours.predict_on_batch(ours.backbone.complete(inputs))
        np.testing.assert_allclose(got, want.logits.detach(), rtol=1e-5, atol=1e-5)
        batch_of_row = (ours.backbone.complete(inputs), labels.astype(kind))
        loss, gradients = step_gradients(ours, batch_of_row)
        np.testing.assert_allclose(loss, want.loss.item(), rtol=1e-5)
        theirs = {canonical_name(n): p.grad for n, p in reference.named_parameters()}
        for path, gradient in gradients.items():
            name, layout = REFERENCE_ROWS.get(path) or (tables[path].name, tables[path].layout)
            if theirs[name] is None:
                continue  # of the vision part, where there are no images
            if path.endswith("key/bias"):
                assert np.abs(gradient).max() < 1e-6
            else:
                other = layout.to_variable(theirs[name].numpy())
                assert relative_error(gradient, other) < 1e-4, path


@pytest.mark.once
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("case", ["classes", "tokens"])
def test_a_row_is_the_same_in_any_batch_and_on_either_side(
    references, tmp_path_factory, case, side
):
    _, ours = pair_of(references, tmp_path_factory, case)
    inputs = batch(side)
    whole = ours.predict_on_batch(ours.backbone.complete(inputs))
    for row in (0, 1):
        alone = ours.predict_on_batch(ours.backbone.complete(row_of(inputs, row)[0]))[0]
        seen = inputs["encoder_padding_mask"][row].astype(bool)
        got = whole[row] if case == "classes" else whole[row][seen]
        np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["classes", "tokens"])
def test_the_reference_loads_what_is_exported(references, tmp_path_factory, tmp_path, case):
    reference, ours = pair_of(references, tmp_path_factory, case)
    ours.export_to_transformers(tmp_path)
    again, report = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys"))
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.config.num_labels == reference.config.num_labels
