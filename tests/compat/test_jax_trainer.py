"""A model keeps its weights, optimizer and metrics whatever happens while Keras runs it."""

import operator
import signal
import types

import keras
import numpy as np
import pytest
import tasks

from keras_t5gemma2.compat import jax_trainer

# On TensorFlow nothing is taken out of a model; one test there says so in the default suite.
JAX_AND_TORCH = pytest.mark.slow if keras.config.backend() == "tensorflow" else ()


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def models():
    """A task, its backbone and a head of a user's own, all of them built; and rows as arrays."""
    lm = tasks.small_task()
    lm.compile(optimizer=keras.optimizers.Adam(1e-3), sampler="greedy")
    output = lm.backbone.output["encoder_sequence_output"]
    head = keras.Model(lm.backbone.input, keras.layers.Dense(2, name="head")(output[:, 0]))
    head.compile("adam", "mse")
    x, y, _ = lm.preprocess_samples(tasks.SMALL_ROWS)
    models = {"task": (lm, (x, y)), "head": (head, (x, np.ones((2, 2))))}
    for model, data in models.values():
        keras.Model.fit(model, *data, batch_size=1, verbose=0)
    return {**models, "backbone": (lm.backbone, (x,))}


def rows_of(data, error, count):
    """`count` batches of one row, and then an error."""
    for row in range(count):
        batch = keras.tree.map_structure(operator.itemgetter(slice(row, row + 1)), data)
        yield batch if len(batch) > 1 else (*batch, None)
    raise error


class Calls(keras.callbacks.Callback):
    """Calls a function when Keras calls a method of this name for the batch of this number."""

    def __init__(self, name, function, number=0):
        super().__init__()
        self.function, self.number = function, number
        setattr(self, name, self.count)

    def count(self, number, logs=None):
        if number == self.number:
            self.function()


def raising(error):
    def function():
        raise error

    return function


def state_of(models):
    models = [model for model, _ in models.values()]
    variables = [variable for model in models for variable in model.variables]
    variables += [v for model in models[:2] for v in model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_as_before(models, state):
    for value, want in zip(state_of(models), state, strict=True):
        np.testing.assert_array_equal(value, want)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("run", ["predict", "evaluate"])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=JAX_AND_TORCH) for kind in ("task", "head", "backbone")]
)
def test_a_run_that_fails_leaves_the_state(models, kind, run, number):
    if (kind, run) == ("backbone", "evaluate"):
        return
    if keras.config.backend() == "tensorflow" and (kind, number) != ("task", 1):
        return  # it takes nothing out of a model
    model, data = models[kind]
    state, name = state_of(models), {"predict": "predict", "evaluate": "test"}[run]
    whole = data[:1] if run == "predict" else data
    for error in (Stop(), KeyboardInterrupt()):
        for place in ("begin", "end"):
            callback = Calls(f"on_{name}_batch_{place}", raising(error), number)
            with pytest.raises(type(error)):
                # Of Keras itself: the task's own reads the first batch early.
                getattr(keras.Model, run)(
                    model, *whole, batch_size=1, callbacks=[callback], verbose=0
                )
            assert_as_before(models, state)
        # Keras's own way to read data on TensorFlow gives an error of TensorFlow's.
        is_given = kind == "task" or keras.config.backend() != "tensorflow"
        with pytest.raises(type(error) if is_given else Exception):
            getattr(model, run)(rows_of(data, error, number), verbose=0)
        assert_as_before(models, state)


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["task", pytest.param("head", marks=JAX_AND_TORCH)])
def test_a_training_that_fails_leaves_the_last_state(models, kind):
    model, data = models[kind]
    for error in (Stop(), KeyboardInterrupt()):
        state = state_of(models)
        with pytest.raises(type(error)):  # Keras itself reads the first batch before all else
            model.fit(rows_of(data, error, 0), verbose=0)
        assert_as_before(models, state)
        with pytest.raises(type(error)):
            fit(model, data, Calls("on_train_batch_begin", raising(error)))
        assert_as_before(models, state)
        steps = int(model.optimizer.iterations)
        with pytest.raises(type(error)):
            fit(model, data, Calls("on_train_batch_end", raising(error), 1))
        assert int(model.optimizer.iterations) == steps + 2
        assert np.isfinite(state_of(models)[0]).all()


def fit(model, data, *callbacks):
    keras.Model.fit(model, *data, batch_size=1, shuffle=False, callbacks=callbacks, verbose=0)


@pytest.mark.once
def test_callbacks_use_the_task_in_the_middle_of_an_epoch(models, tmp_path):
    """Through a name of their own for it, and not only through `callback.model`."""
    lm, data = models["task"]
    texts = []

    def use():
        texts.append(lm.generate("the cat", max_new_tokens=3))
        assert "".join(lm.stream("the cat", max_new_tokens=3)) == texts[-1]
        lm.save_to_preset(tmp_path)

    state = state_of(models)
    lm.evaluate(*data, batch_size=1, callbacks=[Calls("on_test_batch_end", use)], verbose=0)
    assert_as_before(models, state)
    callbacks = [Calls("on_train_batch_end", use, 1), Calls("on_epoch_end", use)]
    steps = int(lm.optimizer.iterations)
    fit(lm, data, *callbacks)
    assert int(lm.optimizer.iterations) == steps + 2
    saved = type(lm).from_preset(str(tmp_path))
    for value, want in zip(saved.weights, lm.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (value, want)))
    assert len(texts) == 3
    # Of a model over the same backbone, too.
    head, data = models["head"]
    fit(head, data, Calls("on_train_batch_end", use))
    assert len(texts) == 4


@pytest.fixture
def interruptible():
    """As in a terminal; a process in the background may ignore Ctrl-C."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.skipif(keras.config.backend() != "jax", reason="only there the state is taken out")
def test_an_interrupt_waits_until_the_state_is_known(interruptible):
    import jax

    model = types.SimpleNamespace(_jax_state=None, _jax_state_synced=True)

    @jax_trainer._recorded_at_every_step
    def make_function(model, step):
        return step

    def run(jitted):
        def step(state, data):
            outputs = "logs", jitted(state)
            signal.raise_signal(signal.SIGINT)
            return outputs

        with pytest.raises(KeyboardInterrupt):
            make_function(model, step)(([jax.numpy.ones(3)], [jax.numpy.ones(2)]), None)
        return np.array(model._jax_state["trainable_variables"][0])

    def double(state):
        return jax.tree.map(lambda x: 2 * x, state)

    np.testing.assert_array_equal(run(jax.jit(double, donate_argnums=0)), [2, 2, 2])
    np.testing.assert_array_equal(run(double), [1, 1, 1])  # nothing was given away


@pytest.mark.skipif(keras.config.backend() != "jax", reason="only there the state is taken out")
def test_what_is_used_of_keras_is_there():
    trainer = jax_trainer._trainer_of_jax()
    for name in (*jax_trainer._RUNS, "_purge_model_variables", "_make_function"):
        assert hasattr(vars(trainer)[name], "__wrapped__"), name
