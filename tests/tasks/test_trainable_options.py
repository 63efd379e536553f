"""Keras's own options of training take effect: weights, accumulation, precision, schedules."""

import keras
import numpy as np
import pytest
from tasks import tiny_task

# Targets of as many tokens: a mean over rows is a mean over tokens.
ROWS = {
    "encoder_text": ["the cat", "what is this", "a red bee", "is it a house"],
    "decoder_text": ["a dog", "the cat", "a house", "a bee"],
}
FIRST, SECOND = ({name: v[i : i + 2] for name, v in ROWS.items()} for i in (0, 2))


@pytest.fixture(scope="module")
def task():
    lm = tiny_task(vision=False)
    return lm, lm.get_weights()


@pytest.fixture
def lm(task):
    """The task with the weights that it began with."""
    lm, weights = task
    lm.set_weights(weights)
    return lm


def weights_after(lm, optimizer, rows=ROWS, **options):
    """All weights in one vector after `fit`, and the history."""
    lm.compile(optimizer=optimizer)
    history = lm.fit(rows, **{"batch_size": 2, "shuffle": False, "verbose": 0, **options})
    return vector(lm), history.history


def vector(lm):
    return np.concatenate([np.ravel(w) for w in lm.get_weights()])


@pytest.mark.once
def test_accumulated_gradients_are_those_of_the_larger_batch(lm):
    start = vector(lm)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    half, _ = weights_after(lm, optimizer, FIRST)
    np.testing.assert_array_equal(half, start)
    lm.fit(SECOND, batch_size=2, verbose=0)
    accumulated = vector(lm)
    lm.set_weights(split_like(lm, start))
    whole, _ = weights_after(lm, keras.optimizers.SGD(0.1), batch_size=4)
    assert np.abs(whole - start).max() > 1e-3
    np.testing.assert_allclose(accumulated, whole, rtol=1e-5, atol=1e-6)


def split_like(lm, flat):
    sizes = np.cumsum([w.size for w in lm.get_weights()])[:-1]
    parts = np.split(flat, sizes)
    return [part.reshape(w.shape) for part, w in zip(parts, lm.get_weights(), strict=True)]


@pytest.mark.once
@pytest.mark.parametrize(
    "dtype", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.once)]
)
def test_mixed_precision(dtype):
    """Computed in half precision, kept in float32; losses scaled where float16 needs it."""
    lm = tiny_task(vision=False, dtype=dtype)
    lm.compile(optimizer=keras.optimizers.Adam(1e-2))
    is_scaled = isinstance(lm.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (dtype == "mixed_float16")
    losses = lm.fit(ROWS, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert losses[3] < losses[0] - 0.1
    assert {weight.dtype for weight in lm.weights} == {"float32"}
    assert lm.backbone.compute_dtype == dtype.removeprefix("mixed_")
    if is_scaled:  # otherwise every step would have been skipped as not finite
        assert int(lm.optimizer.inner_optimizer.iterations) == 4


@pytest.mark.once
def test_gradients_are_clipped(lm):
    start = vector(lm)
    end, _ = weights_after(lm, keras.optimizers.SGD(1.0, global_clipnorm=1e-3), batch_size=4)
    np.testing.assert_allclose(np.linalg.norm(end - start), 1e-3, rtol=1e-3)


@pytest.mark.once
def test_clipnorm_is_per_variable(lm):
    before = lm.get_weights()
    weights_after(lm, keras.optimizers.SGD(1.0, clipnorm=1e-3), batch_size=4)
    norms = [np.linalg.norm(b - a) for a, b in zip(before, lm.get_weights(), strict=True)]
    np.testing.assert_allclose(max(norms), 1e-3, rtol=1e-2)
    assert np.linalg.norm(norms) > 2e-3


@pytest.mark.once
def test_schedules(lm):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.0])
    one, _ = weights_after(lm, keras.optimizers.SGD(schedule), FIRST)
    lm.fit(SECOND, batch_size=2, verbose=0, epochs=2)
    # The second step is the last of the first rate.
    two = vector(lm)
    assert np.abs(two - one).max() > 1e-3
    lm.fit(SECOND, batch_size=2, verbose=0)
    np.testing.assert_array_equal(vector(lm), two)


@pytest.mark.once
def test_moving_averages(lm):
    """After training the weights are the averages over steps."""
    start = lm.get_weights()
    one, _ = weights_after(lm, keras.optimizers.SGD(0.1), FIRST)
    lm.fit(SECOND, batch_size=2, verbose=0)
    two = vector(lm)
    lm.set_weights(start)
    averaging = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.25)
    mean, _ = weights_after(lm, averaging)
    np.testing.assert_allclose(mean, 0.25 * one + 0.75 * two, rtol=1e-4, atol=1e-6)


@pytest.mark.once
def test_training_goes_on_after_moving_averages(lm):
    """The averages that became the weights, and the weights, are trained apart from then on."""
    lm.compile(optimizer=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.25))
    losses = [lm.fit(ROWS, batch_size=2, verbose=0).history["loss"][0] for _ in range(3)]
    assert losses[2] < losses[0]


@pytest.mark.once
def test_eager_steps_are_compiled_steps(lm):
    """Slow where each operation compiles: so with few rows and one step."""
    compiled, history = weights_after(lm, keras.optimizers.SGD(0.1), FIRST)
    losses = history["loss"]
    lm.set_weights(split_like(lm, compiled))
    again = lm.evaluate(FIRST, verbose=0)[0]
    lm.compile(optimizer="sgd", run_eagerly=True)
    np.testing.assert_allclose(lm.evaluate(FIRST, verbose=0)[0], again, rtol=1e-5)
    assert again < losses[0]


# Weights --------------------------------------------------------------------------------------


def loss_of(lm, rows=ROWS, **options):
    """The loss before the first step, and nothing learned from it."""
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    return lm.fit(rows, batch_size=4, shuffle=False, verbose=0, **options).history["loss"][0]


@pytest.mark.once
def test_class_weight_counts_per_label(lm):
    """What it does to a label is what a weight of this label does."""
    token_id = lm.preprocessor.tokenizer.tokenize("a")[0]
    _, labels, _ = lm.preprocessor(ROWS)
    is_token = labels == token_id
    assert 0 < is_token.sum() < (labels > 0).sum()
    of_labels = np.where(is_token, 0.25, 1.0)
    got = loss_of(lm, class_weight={token_id: 0.25})
    np.testing.assert_allclose(got, loss_of(lm, sample_weight=of_labels), rtol=1e-5)
    assert abs(got - loss_of(lm)) > 1e-4
    both = loss_of(lm, sample_weight=np.array([1.0, 2.0, 0.0, 1.0]), class_weight={token_id: 0.25})
    product = of_labels * np.array([[1.0], [2.0], [0.0], [1.0]])
    np.testing.assert_allclose(both, loss_of(lm, sample_weight=product), rtol=1e-5)


@pytest.mark.once
def test_weights_choose_labels(lm):
    """Only what has a weight is trained: another target in its place changes nothing."""
    weights = np.zeros((4, 13))
    weights[:, 0] = 1
    other = {**ROWS, "decoder_text": ["a red bee", "the house", "a", "a dog is"]}
    first = loss_of(lm, sample_weight=weights)
    np.testing.assert_allclose(loss_of(lm, other, sample_weight=weights), first, rtol=1e-5)
    weights[0, 1] = 1
    assert abs(loss_of(lm, other, sample_weight=weights) - first) > 1e-4
    x, labels, _ = lm.preprocessor(ROWS)
    of_arrays = loss_of(lm, x, y=labels, sample_weight=weights)
    np.testing.assert_allclose(of_arrays, loss_of(lm, sample_weight=weights), rtol=1e-5)
    rows = np.array([0.0, 1.0, 0.0, 0.0])
    of_arrays = loss_of(lm, x, y=labels, sample_weight=rows)
    per_label = np.repeat(rows[:, None], 13, axis=1)
    np.testing.assert_allclose(of_arrays, loss_of(lm, x, y=labels, sample_weight=per_label))


# Epochs and steps -----------------------------------------------------------------------------


class Counting(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs, self.steps = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)
        self.steps.append(0)

    def on_train_batch_end(self, step, logs=None):
        self.steps[-1] += 1


@pytest.mark.once
def test_epochs_steps_and_sizes(lm):
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    counting = Counting()
    options = {"callbacks": [counting], "verbose": 0}
    lm.fit(ROWS, batch_size=100, **options)
    lm.fit(ROWS, batch_size=3, initial_epoch=2, epochs=4, **options)
    lm.fit(ROWS, batch_size=1, steps_per_epoch=2, epochs=2, **options)
    assert counting.epochs == [0, 2, 3, 0, 1]
    assert counting.steps == [1, 2, 2, 2, 2]


@pytest.mark.once
def test_validation_split_takes_the_last_rows(lm):
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    options = {"batch_size": 2, "verbose": 0}
    history = lm.fit(ROWS, validation_split=0.5, **options).history
    want = [lm.evaluate(rows, **options)[0] for rows in (FIRST, SECOND)]
    np.testing.assert_allclose([history["loss"][0], history["val_loss"][0]], want, rtol=1e-5)
