"""The names that `compat` uses of other libraries are there, and its functions do what they say.

A test that fails here names what a release of the library has dropped or changed.
"""

import importlib
import inspect
import pathlib
import re
import tempfile

import keras
import keras_hub
import numpy as np
import pytest
from foreign_names import uses
from keras import ops
from keras.src.quantizers import gptq
from package_imports import FILES, module_of

from keras_t5gemma2.compat import jax_trainer
from keras_t5gemma2.compat import keras as compat

BACKEND = keras.config.backend()


class Texts(keras_hub.tokenizers.Tokenizer):
    """A tokenizer without a vocabulary."""

    def __init__(self):
        super().__init__()
        self._add_special_token("<pad>", "pad_token")

    def token_to_id(self, token):
        return 7


def _model():
    """A compiled model of one layer, whose optimizer keeps moving averages."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs))
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _fitted():
    model = _model()
    model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    return model


def _layer():
    return _model().get_layer("dense")


def _variable():
    return _layer().kernel


def _functional():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


def _optimizer():
    return _model().optimizer


def _accumulating():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build([_variable()])
    return optimizer


def _quantized_layer():
    layer = _layer()
    layer.quantize("int4")
    return layer


def _embedding():
    layer = keras.layers.Embedding(5, 4)
    layer.build()
    return layer


def _store():
    """What a layer reads its variables of."""
    stores = []

    class Layer(keras.layers.Dense):
        def load_own_variables(self, store):
            stores.append(store)
            super().load_own_variables(store)

    model = keras.Sequential([keras.Input((2,)), Layer(1)])
    with tempfile.TemporaryDirectory() as directory:
        model.save_weights(pathlib.Path(directory) / "x.weights.h5")
        model.load_weights(pathlib.Path(directory) / "x.weights.h5")
    return stores[0]


# What has a name: functions that make it.
NAMES = {
    "compat.keras": {
        "_accumulated_gradients": [_accumulating],
        "_aggregate_additional_loss": [_model],
        "_compile_loss": [_model],
        "_compile_metrics": [_model],
        "_deferred_initialize": [_variable],
        "_get_variable_index": [_optimizer],
        "_h5_entry_path": [_store],
        "_flatten_layers": [_layer, _model],
        "_initial_epoch": [_model],
        "_initialize": [_variable],
        "_initializer": [_variable],
        "_iterations": [_optimizer],
        "_int4_block_size": [_quantized_layer],
        "_layout": [_variable],
        "_model_variables_moving_average": [_optimizer],
        "_non_trainable_variables": [_layer],
        "_post_build": [_layer, _model],
        "_post_quantize": [_model],
        "_run_through_graph": [_functional],
        "_track_variable": [_layer],
        "_tracker": [_layer],
        "_trainable_variables": [_layer, _optimizer],
        "_untrack_variable": [_layer],
        "_value": [_variable],
        "_variables": [_optimizer],
        "linalg =": [lambda: gptq],
        "apply =": [_optimizer],
        "stop_training =": [_model],
        "regularizer =": [_variable],
    },
    "compat.jax_trainer": {
        "_initializer": [_variable],
        "_jax_state": [_fitted],
        "_jax_state_synced": [_model],
        "_make_function": [_model],
        "_purge_model_variables": [_model],
        "_value": [_variable],
    },
    "compat.keras_hub": {
        "_add_missing_kwargs": [lambda: keras_hub.models.Seq2SeqLMPreprocessor],
        "_call_accepts_labels": [lambda: keras_hub.layers.StartEndPacker(3)],
        "_special_token_attrs": [Texts],
    },
}
# What is used and is no attribute: it has tests below, imports fail by themselves, or it is ours.
OTHERS = {
    *("f'_{name}'", "_should_torch_compile =", "_run_through_graph =", "_add_missing_kwargs ="),
    "setattr(model)",
    *("setattr(changed)", "setattr(trainer)", "_keeps_state"),
}
RELEASES = {"compat.keras": "Keras 3", "compat.keras_hub": "keras-hub 0"}
RELEASES["kernels.compat.torch"] = "torch 2"


def _id(name):
    return name.rstrip(" =")


@pytest.mark.parametrize(
    ("name", "makers"), NAMES["compat.keras"].items(), ids=map(_id, NAMES["compat.keras"])
)
def test_names_of_keras(name, makers):
    _check(name, makers, f"Keras {keras.version()}")


@pytest.mark.skipif(BACKEND != "jax", reason="the trainer of another backend")
@pytest.mark.parametrize(("name", "makers"), NAMES["compat.jax_trainer"].items())
def test_names_of_the_trainer_on_jax(name, makers):
    _check(name, makers, f"Keras {keras.version()}")
    assert jax_trainer._trainer_of_jax() is not None, "no class has `jax_state_sync`"


@pytest.mark.once
@pytest.mark.parametrize(("name", "makers"), NAMES["compat.keras_hub"].items())
def test_names_of_keras_hub(name, makers):
    _check(name, makers, f"keras-hub {keras_hub.version()}")


def _check(name, makers, release):
    for make in makers:
        owner = make()
        kind = getattr(owner, "__name__", type(owner).__name__)
        assert hasattr(owner, _id(name)), f"{release} has no {kind}.{_id(name)}"


@pytest.mark.once
def test_every_foreign_name_has_a_test_here():
    for path in FILES:
        module = module_of(path)
        if module.startswith("compat.") and module != "compat.plain_call":
            used = uses(path.read_text())
            dotted = {name for name in used if re.fullmatch(r"[\w.]+\.\w+", name)}
            assert used - dotted - OTHERS == set(NAMES.get(module, ())) - OTHERS, module


@pytest.mark.parametrize("module", RELEASES)
def test_functions_name_the_release_that_they_were_checked_with(module):
    if module.endswith("torch") and BACKEND != "torch":
        pytest.skip("imports torch")
    rooms = importlib.import_module(f"keras_t5gemma2.{module}")
    functions = [
        value
        for name, value in vars(rooms).items()
        if inspect.isfunction(value) and not name.startswith("_")
    ]
    assert functions
    for function in functions:
        first = inspect.getdoc(function).split("\n")[0]
        pattern = rf"\({re.escape(RELEASES[module])}[\d.]+\)\.$"
        assert re.search(pattern, first), f"{function.__name__}: {first}"


# Layers ----------------------------------------------------------------------------------------


def test_all_layers():
    dense, dropout = keras.layers.Dense(2), keras.layers.Dropout(0.1)
    inner = keras.Sequential([keras.Input((4,)), dense, dropout])
    outer = keras.Sequential([inner])
    found = compat.all_layers(outer)
    assert found[0] is outer
    assert {id(layer) for layer in found} >= {id(layer) for layer in (inner, dense, dropout)}


@pytest.mark.skipif(BACKEND != "torch", reason="others have no modules")
def test_register_parameters():
    model = _model()
    layer = model.get_layer("dense")
    assert len(list(model.parameters())) == 2
    with compat.unlocked(layer):
        compat.untrack(layer, layer.bias)
    assert len(list(model.parameters())) == 2, "models know by themselves: call nothing"
    compat.register_parameters(model)
    assert len(list(model.parameters())) == 1
    compat.register_all_parameters(model)
    assert len(list(model.parameters())) == 1


def test_unlocked_and_untrack():
    layer = _layer()
    with compat.unlocked(layer):
        variable = layer.add_weight(name="more", shape=(2,), trainable=False)
    with pytest.raises(ValueError, match=r"add new elements|cannot add"):
        layer.add_weight(name="again", shape=(2,))
    assert any(v is variable for v in compat.own_variables(layer))
    with compat.unlocked(layer):
        compat.untrack(layer, variable)
        assert not any(v is variable for v in layer.variables)
    compat.track_again(layer, [variable])
    with pytest.raises(ValueError, match=r"add new elements|cannot add"):
        layer.add_weight(name="again", shape=(2,))
    assert any(v is variable for v in layer.non_trainable_variables)


@pytest.mark.parametrize(("make", "name"), [(_layer, "kernel"), (_embedding, "embeddings")])
def test_matrix(make, name):
    layer = make()
    variable = compat.matrix(layer, name)
    assert variable is getattr(layer, name)
    compat.remove_matrix(layer, name)
    assert not any(v is variable for v in layer.variables)
    assert compat.matrix(layer, name) is None


def test_matrix_of_integers():
    layer = _quantized_layer()
    assert keras.backend.standardize_dtype(compat.matrix(layer, "kernel").dtype) == "int8"
    assert compat.int4_block_size(layer) in (None, -1, 128)


def test_quantized_calls_are_dispatched_by_public_methods():
    """`QuantizedDense` overrides `quantized_build` and `quantized_call` and no private method."""
    calls = []

    class Watched(keras.layers.Dense):
        def quantized_build(self, shape, mode, config=None):
            calls.append(("build", tuple(shape), mode))
            super().quantized_build(shape, mode, config)

        def quantized_call(self, *args, **kwargs):
            calls.append(("call", self.quantization_mode))
            return super().quantized_call(*args, **kwargs)

    layer = Watched(3, dtype="int8_from_float32")
    layer(np.ones((1, 4), "float32"))
    assert calls == [("build", (4, 3), "int8"), ("call", "int8")]


def test_finish_quantizing():
    model = _model()
    model.get_layer("dense").quantize("int8")
    compat.finish_quantizing(model, "int8")
    if BACKEND == "torch":
        dtypes = {str(parameter.dtype) for parameter in model.get_layer("dense").parameters()}
        assert "torch.int8" in dtypes


@pytest.mark.once
def test_gptq_inverting_by():
    assert "linalg.inv(" in inspect.getsource(gptq), "GPTQ inverts in another way"
    before, matrix = gptq.linalg, np.eye(2)
    with compat.gptq_inverting_by(lambda hessian: (hessian, "inverted")):
        assert gptq.linalg.inv(matrix) == (matrix, "inverted")
    assert gptq.linalg is before


# Variables -------------------------------------------------------------------------------------


def test_variables_get_their_values_later():
    model, created = compat.build_without_values(
        lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    )
    kernel, bias = model.weights
    assert {id(v) for v in created} >= {id(kernel), id(bias)}
    assert not compat.has_value(kernel) and kernel.shape == (4, 3)
    compat.initialize(kernel, ops.ones((4, 3)))
    compat.initialize_by_initializer(bias)
    assert compat.has_value(kernel) and compat.has_value(bias)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(np.ones((1, 4)))), [[4, 4, 4]])


def test_replace_value():
    variable = _variable()
    value = variable.value
    compat.replace_value(variable, None)
    assert not compat.has_value(variable)
    compat.replace_value(variable, value)
    assert variable.value is value


def test_layout():
    variable = _variable()
    assert compat.layout(variable) is None and compat.layout(None) is None
    compat.set_layout(variable, "rows")
    assert compat.layout(variable) == "rows"


# Trainers and optimizers -----------------------------------------------------------------------


def test_set_first_epoch():
    class Sets(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            compat.set_first_epoch(self.model, 2)

    model = _model()
    assert compat.first_epoch(model) is None
    x, y = np.ones((2, 4)), np.ones((2, 3))
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[Sets()])
    assert history.epoch == [2] and compat.first_epoch(model) == 2


def test_go_on_training():
    model = _fitted()
    model.stop_training = True
    compat.go_on_training(model)
    assert model.stop_training is False


def test_set_functions():
    """Keras keeps compiled functions in these attributes, and compiles anew where one is `None`."""
    model = _fitted()
    model.evaluate(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    model.predict(np.ones((2, 4)), verbose=0)
    for name in ("train_function", "test_function", "predict_function"):
        compiled = getattr(model, name)
        assert compiled is not None, f"Keras {keras.version()} has no {name}"
        compat.set_functions(model, **{name: None})
        assert getattr(model, name) is None
    model.predict(np.ones((2, 4)), verbose=0)
    assert model.predict_function is not None


def test_forget_loss():
    model = _model()
    model.compile("sgd", "mse", metrics=["mae"])
    assert len(model.metrics) == 2
    compat.forget_loss(model)
    assert [metric.name for metric in model.metrics] == ["loss"]  # their mean
    assert "self._compile_loss is not None" in inspect.getsource(keras.Model.compute_loss)


def test_scaled_loss():
    assert float(compat.scaled_loss(_model(), ops.convert_to_tensor(2.0))) == 2.0


def test_variables_of_an_optimizer():
    model = _model()
    wanted = [variable.path for variable in model.trainable_variables]
    assert [v.path for v in compat.trained_variables(model.optimizer)] == wanted
    averages = compat.moving_averages(model.optimizer)
    assert [tuple(v.shape) for v in averages] == [(4, 3), (3,)]


def test_accumulated_gradients():
    """The mean of what is added up, and in which call there is a step."""
    variable = keras.Variable([1.0, 2.0])
    plain = keras.optimizers.SGD(0.1)
    assert compat.accumulated_gradients(plain, [None], [variable]) == ([None], True)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build([variable])
    for gradient, is_step, mean in ((2.0, False, 1.0), (4.0, True, 3.0)):
        given = [ops.convert_to_tensor([gradient, 0.0])]
        (found,), steps = compat.accumulated_gradients(optimizer, given, [variable])
        assert (bool(steps), ops.convert_to_numpy(found).tolist()) == (is_step, [mean, 0.0])
        optimizer.apply(given, [variable])
    np.testing.assert_allclose(ops.convert_to_numpy(variable), [1.0 - 0.1 * 3.0, 2.0])


def test_uncast():
    variable, found = keras.Variable([1.001]), []

    class Layer(keras.layers.Layer):
        def call(self, x):
            found.extend([compat.uncast(variable), variable.value])
            return x

    Layer(dtype="mixed_bfloat16")(np.ones((1, 1), "float32"))
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in found]
    assert dtypes == ["float32", "bfloat16"]


def test_applying_by():
    optimizer, variable, calls = keras.optimizers.SGD(1.0), keras.Variable([1.0]), []
    optimizer.build([variable])

    def apply(*arguments):
        calls.append(arguments)

    with compat.applying_by(optimizer, apply):
        optimizer.apply_gradients([(ops.ones((1,)), variable)])
    assert len(calls) == 1
    optimizer.apply_gradients([(ops.ones((1,)), variable)])
    assert float(variable[0]) == 0.0


def test_set_regularizer():
    layer = _layer()
    compat.set_regularizer(layer.kernel, lambda x: ops.sum(x * 0.0) + 3.0)
    assert [float(loss) for loss in layer.losses] == [3.0]
    compat.set_regularizer(layer.kernel, None)
    assert layer.losses == []


def test_forget_optimizer_variables():
    optimizer = _optimizer()
    before = [variable.path for variable in optimizer.variables]
    own = [optimizer.add_variable((2,), name="mine"), optimizer.add_variable((), name="too")]
    compat.forget_optimizer_variables(optimizer, own)
    assert [variable.path for variable in optimizer.variables] == before


@pytest.mark.skipif(BACKEND != "torch", reason="others do not ask")
def test_never_torch_compiled():
    @compat.never_torch_compiled
    class Model(keras.Sequential):
        pass

    text = inspect.getsource(keras.Model.make_train_function)
    text += "".join(inspect.getsource(base) for base in keras.Model.__mro__[1:-1])
    assert "_should_torch_compile()" in text
    assert Model()._should_torch_compile() is False


def test_data_adapters():
    wanted = {"get_numpy_iterator", "get_jax_iterator", "get_tf_dataset", "get_torch_dataloader"}
    assert wanted <= set(dir(compat.DataAdapter))
    assert issubclass(compat.PyDatasetAdapter, compat.DataAdapter)


def test_stored_group(tmp_path):
    seen = []

    @keras.saving.register_keras_serializable("test_stored_group")
    class Inner(keras.layers.Dense):
        def load_own_variables(self, store):
            seen.append(compat.stored_group(store))
            assert list(seen[0]["vars"]) == ["0", "1"]
            super().load_own_variables(store)

    inputs = keras.Input((2,))
    keras.Model(inputs, Inner(3, name="inner")(inputs)).save(tmp_path / "m.keras")
    keras.saving.load_model(tmp_path / "m.keras")
    assert len(seen) == 1
    assert compat.stored_group({}) is None
