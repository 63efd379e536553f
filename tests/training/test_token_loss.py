"""The loss and metrics of tokens in training, against a loss on logits; and their parts alone."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tasks import small_task
from tiny_models import DECODER, ENCODER, LOCAL, TEXT_CONFIG, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.training import token_loss

# One layer each: what is tried here comes after them.
CONFIG = dataclasses.replace(
    TEXT_CONFIG,
    encoder=dataclasses.replace(ENCODER, layers=(LOCAL,)),
    decoder=dataclasses.replace(DECODER, layers=(LOCAL,)),
)


@pytest.fixture(scope="module")
def batch():
    """Rows of different lengths with labels, and weights of 0 where there is no token."""
    rng = np.random.default_rng(0)
    x = token_inputs(rng, (9, 5, 7, 8, 4, 6), (3, 6, 2, 5, 1, 4))
    weights = x["decoder_padding_mask"] * rng.uniform(0.5, 2.0, size=(6, 6)).astype("float32")
    return x, rng.integers(10, 101, size=(6, 6)), weights


def task(dtype=None, **options):
    """A text task without preprocessor, compiled with `options`."""
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(CONFIG, dtype=dtype))
    lm.compile(**{"optimizer": keras.optimizers.SGD(0.05), **options})
    return lm


def own_loss():
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


@pytest.fixture(scope="module")
def lm():
    return task()


def evaluate(lm, batch, batch_size=6):
    return lm.evaluate(*batch[:2], batch_size, batch[2], verbose=0, return_dict=True)


@pytest.mark.compiled
def test_training_agrees_with_a_loss_on_logits(batch):
    """The same losses, metrics and weights, step by step, as Keras's own loss and metrics give."""
    ours, plain = task(), task(loss=own_loss())
    seen = {}
    for lm in (ours, plain):
        logs = [lm.train_on_batch(*batch, return_dict=True) for _ in range(3)]
        logs.append(evaluate(lm, batch))
        seen[lm] = logs
    assert set(seen[ours][0]) == {"loss", "accuracy", "perplexity"}
    for got, want in zip(seen[ours], seen[plain], strict=True):
        assert set(got) == set(want)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5)
    for got, want in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(got), ops.convert_to_numpy(want), **TOLERANCE["float32"]
        )
    assert seen[ours][2]["loss"] < seen[ours][0]["loss"]


@pytest.mark.once
def test_steps_get_hidden_states_and_calls_get_logits(lm, batch):
    widths = []

    class Watched(T5Gemma2Seq2SeqLM):
        def compute_loss(self, x, y, y_pred, *args, **kwargs):
            widths.append(y_pred.shape[-1])
            return super().compute_loss(x, y, y_pred, *args, **kwargs)

    watched = Watched(lm.backbone)
    watched.train_on_batch(*batch)
    watched.test_on_batch(*batch)
    assert set(widths) == {28}
    assert watched.predict_on_batch(batch[0]).shape == (6, 6, 101)

    widths.clear()
    watched.compile(metrics=[keras.metrics.SparseCategoricalAccuracy(name="of_logits")])
    logs = watched.test_on_batch(*batch, return_dict=True)
    assert set(widths) == {101}
    assert set(logs) == {"loss", "accuracy", "perplexity", "of_logits"}
    want = evaluate(lm, batch)
    for name, value in want.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)


def test_means_of_an_epoch_are_over_tokens(lm, batch):
    """Batches of 4 and 2 rows, of 16 and 5 tokens: the same numbers as one batch."""
    whole, parts = evaluate(lm, batch), evaluate(lm, batch, batch_size=4)
    assert set(whole) == {"loss", "accuracy", "perplexity"}
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5)
    np.testing.assert_allclose(whole["perplexity"], np.exp(whole["loss"]), rtol=1e-5)


@pytest.mark.once
def test_no_weight_at_all_is_a_loss_of_zero(batch):
    x, y, weights = batch
    lm = task()
    before = [ops.convert_to_numpy(weight) for weight in lm.trainable_weights]
    logs = lm.train_on_batch(x, y, np.zeros_like(weights), return_dict=True)
    assert logs["loss"] == 0
    for weight, value in zip(lm.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


def test_weights_of_rows_and_none(lm, batch):
    x, y, _ = batch
    rows = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0], "float32")
    of_rows = evaluate(lm, (x, y, rows))
    of_tokens = evaluate(lm, (x, y, np.repeat(rows[:, None], 6, axis=1)))
    without = evaluate(lm, (x, y, None))
    ones = evaluate(lm, (x, y, np.ones((6, 6), "float32")))
    assert of_rows["loss"] == pytest.approx(of_tokens["loss"], rel=1e-6)
    assert without["loss"] == pytest.approx(ones["loss"], rel=1e-6)
    assert abs(of_rows["loss"] - without["loss"]) > 1e-3


@pytest.mark.once
def test_compiling_again_forgets_the_loss_before(lm, batch):
    other = T5Gemma2Seq2SeqLM(lm.backbone)
    other.compile(loss=own_loss(), weighted_metrics=[])
    own = other.test_on_batch(*batch, return_dict=True)
    assert set(own) == {"loss"}
    other.compile(weighted_metrics=None)
    default = other.test_on_batch(*batch, return_dict=True)
    assert set(default) == {"loss"}
    np.testing.assert_allclose(default["loss"], own["loss"], rtol=1e-5)


@pytest.mark.once
def test_losses_of_layers_are_added(lm, batch):
    kernel = lm.backbone.decoder.blocks[0].mlp.up.kernel
    kernel.regularizer = keras.regularizers.L2(0.5)
    try:
        regular = T5Gemma2Seq2SeqLM(lm.backbone)
        logs = evaluate(regular, batch, batch_size=4)
    finally:
        kernel.regularizer = None
    want = evaluate(lm, batch)
    penalty = 0.5 * np.square(ops.convert_to_numpy(kernel)).sum()
    np.testing.assert_allclose(logs["loss"], want["loss"] + penalty, rtol=1e-5)
    np.testing.assert_allclose(logs["perplexity"], want["perplexity"], rtol=1e-5)


@pytest.fixture(scope="module")
def float32_steps(batch):
    lm = task(optimizer=keras.optimizers.SGD(0.01))
    return [lm.train_on_batch(*batch, return_dict=True)["loss"] for _ in range(2)]


@pytest.mark.compiled
@pytest.mark.parametrize(
    "dtype", ["mixed_float16", pytest.param("bfloat16", marks=pytest.mark.once)]
)
def test_half_precision_trains(float32_steps, batch, dtype):
    """A step of the size that float32 takes; float16 under Keras's own scaling of the loss."""
    half = task(dtype, optimizer=keras.optimizers.SGD(0.01))
    is_scaled = isinstance(half.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (dtype == "mixed_float16")
    steps = [half.train_on_batch(*batch, return_dict=True)["loss"] for _ in range(2)]
    tolerance = TOLERANCE["float16" if dtype == "mixed_float16" else "bfloat16"]
    assert float32_steps[1] < float32_steps[0] - 0.1
    np.testing.assert_allclose(steps, float32_steps, **tolerance)


@pytest.mark.once
def test_a_frozen_table_stays_as_it_is(batch):
    lm = task()
    lm.backbone.embedder.trainable = False
    lm.compile(optimizer=keras.optimizers.SGD(0.05))
    table = ops.convert_to_numpy(lm.backbone.token_embedding.embeddings)
    losses = [lm.train_on_batch(*batch, return_dict=True)["loss"] for _ in range(3)]
    assert losses[2] < losses[0]
    np.testing.assert_array_equal(
        ops.convert_to_numpy(lm.backbone.token_embedding.embeddings), table
    )


@pytest.mark.once
def test_a_quantized_table_still_gives_the_loss_of_its_logits(batch):
    lm = task()
    lm.quantize("int8")
    lm.compile()
    got = evaluate(lm, batch)
    lm.compile(loss=own_loss())
    for name, value in evaluate(lm, batch).items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)


@pytest.mark.once
def test_loss_weights_need_a_loss(lm):
    with pytest.raises(ValueError, match=r"loss_weights=\[2.0\]"):
        lm.compile(loss_weights=[2.0])


# Parts ----------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_weight_of_a_row_is_that_of_each_of_its_tokens():
    labels = np.zeros((2, 3), "int32")
    for given, want in (
        (None, np.ones((2, 3))),
        ([0.5, 2], [[0.5] * 3, [2] * 3]),
        ([[1, 2, 3], [0, 0, 1]], [[1, 2, 3], [0, 0, 1]]),
    ):
        given = given if given is None else np.array(given, "float32")
        got = token_loss.token_weights(labels, given)
        assert ops.convert_to_numpy(got).tolist() == np.array(want).tolist()


@pytest.mark.once
def test_ignored_labels_have_neither_loss_nor_weight(rng):
    logits = ops.convert_to_tensor(rng.normal(size=(2, 3, 5)).astype("float32"))
    labels = np.array([[1, -100, 2], [-100, -100, 4]])
    got = token_loss.token_sums(None, ops.convert_to_tensor(labels), logits, None, False, False)
    rows = ops.convert_to_numpy(logits)[labels >= 0]
    of_labels = rows[np.arange(3), labels[labels >= 0]]
    want = np.log(np.exp(rows).sum(axis=-1)) - of_labels
    assert float(got.loss) == pytest.approx(want.sum(), rel=1e-5)
    assert float(got.weight) == 3
    assert float(got.correct) == (rows.argmax(axis=-1) == labels[labels >= 0]).sum()


@pytest.mark.once
def test_means_weigh_batches_by_their_tokens():
    loss = token_loss.TokenLoss(has_metrics=True)
    for sums in ((6.0, 1.0, 3.0), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0)):
        share = loss.update(kernels.TokenSums(*map(ops.convert_to_tensor, sums)), extra=0.0)
        assert float(share) == (sums[0] / sums[2] if sums[2] else 0.0)
    found = {metric.name: float(metric.result()) for metric in loss.metrics}
    assert found == {
        "token_loss": pytest.approx(2.0),
        "accuracy": pytest.approx(0.5),
        "perplexity": pytest.approx(np.exp(2.0), rel=1e-5),
    }
    assert token_loss.TokenLoss(has_metrics=False).metrics[0].name == "token_loss"
    assert len(token_loss.TokenLoss(has_metrics=False).metrics) == 1


@pytest.mark.once
def test_hidden_states_are_given_by_one_task_and_only_inside():
    one, other = object(), object()
    assert not token_loss.gives_hidden(one)
    with token_loss.giving_hidden(one):
        assert token_loss.gives_hidden(one) and not token_loss.gives_hidden(other)
        with token_loss.giving_hidden(None):
            assert not token_loss.gives_hidden(one)
        assert token_loss.gives_hidden(one)
    assert not token_loss.gives_hidden(one)


@pytest.mark.once
def test_weights_of_float16_are_warned_of():
    with pytest.warns(UserWarning, match="most steps are smaller than their rounding"):
        token_loss.check_trained([keras.Variable(np.zeros(2), dtype="float16")])
    token_loss.check_trained([keras.Variable(np.zeros(2), dtype="bfloat16")])


@pytest.mark.once
def test_a_task_without_anything_to_train_is_refused():
    lm = small_task()
    token_loss.check_optimizer(lm)
    lm.backbone.trainable = False
    with pytest.raises(ValueError, match="There must be something to train"):
        token_loss.check_optimizer(lm)
