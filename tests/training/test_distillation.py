"""What a student learns from a teacher: the loss by hand, its gradients, and the samples."""

import dataclasses

import keras
import numpy as np
import pytest
from gradients import value_and_gradients
from keras import ops
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import tiny_backbone
from tolerances import TOLERANCE

from keras_t5gemma2 import Distillation, T5Gemma2Seq2SeqLM, TeacherSamples, kernels
from keras_t5gemma2.kernels import SoftTargets
from keras_t5gemma2.kernels.loss import reference

WIDTH, VOCABULARY, FEW = 7, 53, 5


def problem(rng, count, dtype="float32"):
    hidden = ops.cast(rng.normal(size=(count, WIDTH)).astype("float32"), dtype)
    table = ops.cast(rng.normal(size=(VOCABULARY, WIDTH)).astype("float32"), dtype)
    labels = rng.integers(0, VOCABULARY, size=count).astype("int32")
    weights = rng.uniform(0.5, 2.0, size=count) * (rng.uniform(size=count) < 0.7)
    # An id may come twice.
    ids = rng.integers(0, VOCABULARY, size=(count, FEW)).astype("int32")
    ids[0, 0] = ids[0, 1]
    shares = rng.dirichlet(np.ones(FEW), size=count).astype("float32")
    return hidden, table, labels, weights.astype("float32"), SoftTargets(ids, shares)


def by_hand(hidden, table, weights, ids, shares, soft_cap=None):
    """Minus the sum over tokens and samples of share times log-probability."""
    logits = ops.convert_to_numpy(hidden).astype("float64") @ ops.convert_to_numpy(table).T
    if soft_cap:
        logits = soft_cap * np.tanh(logits / soft_cap)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    taken = np.take_along_axis(log_probabilities, ids, axis=-1)
    return -(weights * (shares * taken).sum(axis=-1)).sum()


# The kernel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_the_loss_is_the_formula(rng, soft_cap):
    hidden, table, labels, weights, targets = problem(rng, 30)
    want = by_hand(hidden, table, weights, *targets, soft_cap)
    args = (labels, weights, soft_cap)
    for training in (True, False):
        got = kernels.linear_cross_entropy(
            hidden, table, *args, training, chunk_size=8, targets=targets
        )
        assert float(got.loss) == pytest.approx(want, rel=1e-5)
    logits = ops.matmul(hidden, ops.transpose(table))
    if soft_cap:
        logits = soft_cap * ops.tanh(logits / soft_cap)
    assert float(kernels.cross_entropy(logits, labels, weights, targets).loss) == pytest.approx(
        want, rel=1e-5
    )
    # The labels still say what is correct.
    highest = ops.convert_to_numpy(logits).argmax(axis=-1)
    assert float(got.correct) == pytest.approx(weights[highest == labels].sum())


@pytest.mark.compiled
@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize(
    ("dtype", "soft_cap"), [("float32", None), ("float32", 2.0), ("bfloat16", None)]
)
def test_chunks_give_the_gradients_of_all_logits(rng, count, dtype, soft_cap):
    hidden, table, labels, weights, targets = problem(rng, count, dtype)

    def chunked(hidden, table):
        sums = kernels.linear_cross_entropy(
            hidden, table, labels, weights, soft_cap, chunk_size=8, targets=targets
        )
        return sums.loss / sums.weight

    def plain(hidden, table):
        tensors = [ops.convert_to_tensor(x) for x in (labels, weights)]
        found = SoftTargets(*map(ops.convert_to_tensor, targets))
        loss, _ = reference.linear_cross_entropy(hidden, table, *tensors, soft_cap, found)
        return loss / weights.sum()

    got, got_gradients = value_and_gradients(chunked, [hidden, table])
    want, want_gradients = value_and_gradients(plain, [hidden, table])
    np.testing.assert_allclose(got, want, **TOLERANCE[dtype])
    for one, other in zip(got_gradients, want_gradients, strict=True):
        largest = np.abs(other).max()
        np.testing.assert_allclose(one / largest, other / largest, **TOLERANCE[dtype])


def test_all_on_the_label_is_the_plain_loss(rng):
    hidden, table, labels, weights, _ = problem(rng, 11)
    shares = np.ones((11, 1), "float32")

    def loss(targets):
        def of(hidden):
            sums = kernels.linear_cross_entropy(
                hidden, table, labels, weights, chunk_size=8, targets=targets
            )
            return sums.loss

        return value_and_gradients(of, [hidden])

    (got, (slope,)), (want, (other,)) = loss(SoftTargets(labels[:, None], shares)), loss(None)
    assert got == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(slope, other, **TOLERANCE["float32"])


# Samples of a teacher -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher():
    return small_task(seed=1)


def teacher_probabilities(teacher, rows):
    """Of every token of the vocabulary, (rows, length, vocabulary), and the arrays of a step."""
    x, labels, weights = teacher.preprocessor(rows)
    logits = ops.convert_to_numpy(teacher.predict_on_batch(teacher.backbone.complete(x)))
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True), x, labels, weights


@pytest.mark.once
def test_samples_are_tokens_with_the_teacher_s_probabilities(teacher):
    probabilities, x, *_ = teacher_probabilities(teacher, SMALL_ROWS)
    samples = teacher.sample_logits(SMALL_ROWS, num_samples=9)
    assert len(samples) == 2
    for row, mask in enumerate(x["decoder_padding_mask"]):
        ids, shares = samples.of_row(row)
        assert ids.shape == (mask.sum(), 9)
        assert all(len(set(of_token)) == 9 for of_token in ids.tolist())
        taken = np.take_along_axis(probabilities[row, : len(ids)], ids, axis=-1)
        want = taken / taken.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(shares, want, rtol=1e-4, atol=1e-6)


@pytest.mark.once
def test_likely_tokens_are_drawn_more_often(teacher):
    """One draw of many: as often as the teacher says."""
    probabilities, _, *_ = teacher_probabilities(teacher, SMALL_ROWS)
    rows = {name: [texts[0]] * 150 for name, texts in SMALL_ROWS.items()}
    samples = teacher.sample_logits(rows, num_samples=1, batch_size=150)
    drawn = np.stack([samples.of_row(row)[0][:, 0] for row in range(150)])
    for place in range(drawn.shape[1]):
        counts = np.bincount(drawn[:, place], minlength=ONE_LAYER.vocabulary_size)
        want = probabilities[0, place]
        # Within four standard deviations.
        assert (np.abs(counts / 150 - want) < 4 * np.sqrt(want / 150) + 0.02).all()
        assert (counts > 0).sum() > 1


def test_samples_are_those_of_the_seed(teacher):
    def drawn(seed):
        return teacher.sample_logits(SMALL_ROWS, num_samples=3, seed=seed).token_ids

    np.testing.assert_array_equal(drawn(5), drawn(5))
    assert (drawn(5) != drawn(6)).any()


# Training -------------------------------------------------------------------------------------


def expected_loss(student, teacher, rows, label_weight=0.0):
    """The mean cross-entropy of the two distributions, over all tokens that count."""
    wanted, x, labels, weights = teacher_probabilities(teacher, rows)
    logits = ops.convert_to_numpy(student.predict_on_batch(student.backbone.complete(x)))
    logits = logits.astype("float64")
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    of_labels = np.eye(wanted.shape[-1])[labels]
    wanted = (1 - label_weight) * wanted + label_weight * of_labels
    losses = -(wanted * logs).sum(axis=-1)
    return (weights * losses).sum() / weights.sum()


@pytest.mark.once
def test_live_teacher_gives_the_cross_entropy_with_it(teacher):
    """And with the labels, as much as they are to count."""
    student = small_task(learning_rate=0.0)
    want = expected_loss(student, teacher, SMALL_ROWS, label_weight=0.25)
    # As many samples as the vocabulary has tokens: the whole distribution.
    distillation = Distillation(teacher, num_samples=10_000, label_weight=0.25)
    history = student.fit(SMALL_ROWS, batch_size=2, verbose=0, distillation=distillation).history
    assert history["loss"][0] == pytest.approx(want, rel=1e-4)


@pytest.mark.once
def test_stored_samples_go_with_their_rows(teacher):
    """In any order of the rows, and in batches of one."""
    student = small_task(learning_rate=0.0)
    want = expected_loss(student, teacher, SMALL_ROWS)
    samples = teacher.sample_logits(SMALL_ROWS, num_samples=10_000)
    for x in (SMALL_ROWS, student.preprocessor(SMALL_ROWS)):
        history = student.fit(x, batch_size=1, verbose=0, distillation=Distillation(samples))
        assert history.history["loss"][0] == pytest.approx(want, rel=1e-4)


@pytest.mark.once
def test_student_comes_closer_to_its_teacher(teacher):
    student = small_task()
    student.compile(optimizer=keras.optimizers.Adam(0.02))
    before = expected_loss(student, teacher, SMALL_ROWS)
    least = expected_loss(teacher, teacher, SMALL_ROWS)
    distillation = Distillation(teacher, num_samples=10_000)
    options = {"batch_size": 2, "epochs": 8, "verbose": 0, "validation_data": SMALL_ROWS}
    history = student.fit(SMALL_ROWS, distillation=distillation, **options).history
    assert expected_loss(student, teacher, SMALL_ROWS) - least < 0.6 * (before - least)
    # Which goes by the labels.
    want = student.evaluate(SMALL_ROWS, verbose=0, return_dict=True)["loss"]
    assert history["val_loss"][-1] == pytest.approx(want, rel=1e-5)


def test_errors(teacher):
    student = small_task()
    config = dataclasses.replace(ONE_LAYER, vocabulary_size=ONE_LAYER.vocabulary_size - 1)
    other = T5Gemma2Seq2SeqLM(tiny_backbone(config))
    with pytest.raises(ValueError, match=rf"{config.vocabulary_size} of the teacher"):
        student.fit(SMALL_ROWS, distillation=Distillation(other))
    with pytest.raises(ValueError, match="teacher of the same backbone"):
        student.fit(SMALL_ROWS, distillation=Distillation(student))
    with pytest.raises(TypeError, match="teacher='big'"):
        Distillation("big")
    with pytest.raises(ValueError, match=r"num_samples=0, label_weight=0\.5"):
        Distillation(teacher, num_samples=0, label_weight=0.5)
    with pytest.raises(ValueError, match=r"label_weight=1\.0"):
        Distillation(teacher, label_weight=1.0)
    samples = teacher.sample_logits(SMALL_ROWS, num_samples=3)
    swapped = {name: texts[::-1] for name, texts in SMALL_ROWS.items()}
    with pytest.raises(ValueError, match=r"Received: \d+ tokens in the samples of row \d, \d+ in"):
        student.fit(swapped, distillation=Distillation(samples), verbose=0)
    with pytest.raises(ValueError, match="whose rows have no number"):
        student.fit(iter([SMALL_ROWS]), distillation=Distillation(samples), verbose=0)
    with pytest.raises(ValueError, match=r"token id \d+, and a student of vocabulary_size=3"):
        tiny = dataclasses.replace(ONE_LAYER, vocabulary_size=3)
        Distillation(samples).check(T5Gemma2Seq2SeqLM(tiny_backbone(tiny)))
    with pytest.raises(ValueError, match="lengths that add up to 7"):
        TeacherSamples(np.zeros((6, 3), "int32"), np.zeros((6, 3), "float32"), [3, 4])
    student.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="loss=<LossFunctionWrapper"):
        student.fit(SMALL_ROWS, distillation=Distillation(samples))
