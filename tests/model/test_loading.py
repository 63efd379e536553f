"""Variables come to life with their values: exact, owned, one at a time, all or none."""

import contextlib
import functools
import io
import pathlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.backend.common import global_state

from keras_t5gemma2.config import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    VisionConfig,
    interleave,
)
from keras_t5gemma2.files import tensors
from keras_t5gemma2.files.layout import LINEAR
from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.model import loading
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import build_with_weights, shapes_only

PATHS = {"up/kernel": (3, 7), "up/bias": (7,), "down/kernel": (7, 5)}


def build(dtype="float32", rate=0.0):
    """A model with weights of three sizes, and with the state of a random seed."""
    inputs = keras.Input((3,))
    x = layers.Dense(7, dtype=dtype, name="up")(inputs)
    x = layers.Dropout(rate, seed=11, dtype=dtype, name="drop")(x)
    return keras.Model(inputs, layers.Dense(5, use_bias=False, dtype=dtype, name="down")(x))


def random_values(dtype="float32"):
    generator = np.random.default_rng(0)
    return {path: generator.normal(size=shape).astype(dtype) for path, shape in PATHS.items()}


def stored(values, **changes):
    tensors = {
        path: StoredTensor(f"stored.{path}", array.shape, lambda array=array: array)
        for path, array in values.items()
    }
    return {**tensors, **changes}


def read_only(array):
    array = array.view()
    array.flags.writeable = False
    return array


def numpy_weights(model):
    return {weight.path: ops.convert_to_numpy(weight.value) for weight in model.weights}


def waiting_variables():
    return global_state.get_global_attribute("uninitialized_variables") or []


@pytest.mark.parametrize("stored_type", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_exact_and_rounded_once(stored_type, dtype):
    values = random_values(stored_type)
    model = build_with_weights(functools.partial(build, dtype), stored(values))
    for weight in model.weights:
        assert keras.backend.standardize_dtype(weight.value.dtype) == dtype
        wanted = values[weight.path].astype(dtype).astype("float32")
        value = ops.convert_to_numpy(ops.cast(weight.value, "float32"))
        np.testing.assert_array_equal(value, wanted)


def test_mixed_policy_keeps_variables_in_their_own_type():
    model = build_with_weights(functools.partial(build, "mixed_bfloat16"), stored(random_values()))
    assert {keras.backend.standardize_dtype(w.value.dtype) for w in model.weights} == {"float32"}


def test_layout_is_applied():
    values = random_values()
    kernel = values["up/kernel"]
    transposed = StoredTensor("t", (7, 3), lambda: kernel.T.copy(), layout=LINEAR)
    model = build_with_weights(build, stored(values, **{"up/kernel": transposed}))
    np.testing.assert_array_equal(numpy_weights(model)["up/kernel"], kernel)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="arrays elsewhere lie row by row")
@pytest.mark.parametrize("shape", [(3, 7), (1, 7), (7, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_has_a_matrix_as_it_is_in_the_file(shape, dtype):
    def build():
        inputs = keras.Input(shape[:1])
        dense = layers.Dense(shape[1], use_bias=False, dtype=dtype, name="d")
        return keras.Model(inputs, dense(inputs))

    file = np.arange(shape[0] * shape[1], dtype="float32").reshape(shape[::-1])
    tensor = StoredTensor("t", file.shape, lambda: read_only(file.astype(dtype)), layout=LINEAR)
    kernel = build_with_weights(build, {"d/kernel": tensor}).weights[0]
    assert kernel.value.t().is_contiguous()
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(kernel, "float32")), file.T)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_copies_in_many_pieces_are_whole(monkeypatch, layout):
    monkeypatch.setattr(loading, "_BYTES_PER_PIECE", 16)
    values = {path: read_only(array) for path, array in random_values().items()}
    released = []
    tensors = stored(values)
    if layout == "columns":
        columns = read_only(np.asfortranarray(values["down/kernel"]))
        tensors["down/kernel"] = StoredTensor(
            "c", (7, 5), lambda: columns, lambda: released.append(0)
        )
    model = build_with_weights(build, tensors)
    for path, value in numpy_weights(model).items():
        np.testing.assert_array_equal(value, values[path])
    assert len(released) == (5 if layout == "columns" else 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_variables_do_not_share_memory_with_the_file(dtype):
    """Not even through types that some backends can take over without a copy."""
    values = random_values(dtype)
    wanted = {path: array.astype("float32") for path, array in values.items()}
    tensors = stored({path: read_only(array) for path, array in values.items()})
    model = build_with_weights(functools.partial(build, dtype), tensors)
    for array in values.values():
        array[:] = -1
    for weight in model.weights:
        value = ops.convert_to_numpy(ops.cast(weight.value, "float32"))
        np.testing.assert_array_equal(value, wanted[weight.path])


def test_largest_first():
    order = []

    def read(path, array):
        order.append(path)
        return array

    values = random_values()
    tensors = {
        path: StoredTensor(path, array.shape, functools.partial(read, path, array))
        for path, array in values.items()
    }
    build_with_weights(build, tensors)
    assert order == ["down/kernel", "up/kernel", "up/bias"]


def test_same_outputs_as_a_model_built_and_then_filled():
    values = random_values()
    streamed = build_with_weights(build, stored(values))
    usual = build()
    for weight in usual.weights:
        weight.assign(values[weight.path])
    x = np.random.default_rng(1).normal(size=(2, 3)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(streamed(x)), ops.convert_to_numpy(usual(x)))


def test_seed_state_gets_its_initial_value():
    make = functools.partial(build, rate=0.5)
    model, usual = build_with_weights(make, stored(random_values())), make()
    states = [
        [v for v in m.variables if v.path not in PATHS and "seed" in v.path] for m in (model, usual)
    ]
    assert len(states[0]) == 1
    assert states[0][0]._value is not None
    state, usual_state = (ops.convert_to_numpy(found[0].value) for found in states)
    np.testing.assert_array_equal(state, usual_state)


def test_model_trains():
    model = build_with_weights(functools.partial(build, rate=0.5), stored(random_values()))
    before = numpy_weights(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.ones((2, 3), "float32"), np.ones((2, 5), "float32")
    model.fit(x, y, verbose=0)
    for path, value in numpy_weights(model).items():
        assert np.any(value != before[path]), path


def test_model_is_registered_as_one_built_in_the_usual_way():
    """On torch, parameters and state dict; elsewhere, the trainable variables."""
    model, usual = build_with_weights(build, stored(random_values())), build()

    def register(model):
        if not hasattr(model, "state_dict"):
            return [variable.path for variable in model.trainable_variables]
        state = sorted(model.state_dict())
        return state, [(name, p.requires_grad) for name, p in model.named_parameters()]

    assert register(model) == register(usual)


def test_frozen_layer_stays_frozen():
    def build_frozen():
        model = build()
        model.get_layer("up").trainable = False
        return model

    model = build_with_weights(build_frozen, stored(random_values()))
    assert [v.path for v in model.trainable_variables] == ["down/kernel"]
    if hasattr(model, "named_parameters"):
        assert sorted(p.requires_grad for p in model.parameters()) == [False, False, True]


def test_later_scopes_leave_the_variables_alone():
    model = build_with_weights(build, stored(random_values()))
    before = numpy_weights(model)
    assert waiting_variables() == []
    with keras.StatelessScope():
        other = build()
    assert all(variable._value is not None for variable in other.variables)
    for path, value in numpy_weights(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"up/kernel": None}, r"must have a tensor. Without one: up/kernel$"),
        (
            {"side/kernel": StoredTensor("stored.side", (3,), None)},
            r"Unexpected: stored.side \(for side/kernel\)",
        ),
        (
            {"up/kernel": StoredTensor("stored.up", (7, 3), None)},
            r"stored.up, for the variable up/kernel, must have the shape \(3, 7\).*shape=\(7, 3\)",
        ),
        (
            {"up/kernel": StoredTensor("stored.up", (3, 7), None, layout=LINEAR)},
            r"stored.up, for the variable up/kernel, must have the shape \(7, 3\).*shape=\(3, 7\)",
        ),
        (
            {"up/kernel": StoredTensor("stored.up", (3, 7), lambda: np.ones((3, 7), "int8"))},
            r"stored.up must be of type float32, as its variable is. Received: int8",
        ),
    ],
)
def test_tensors_that_do_not_fit(tensors, message):
    tensors = {path: t for path, t in stored(random_values(), **tensors).items() if t is not None}
    with pytest.raises(ValueError, match=message):
        build_with_weights(build, tensors)


def test_long_lists_of_names_are_cut():
    values = {f"x{i:02}/kernel": np.zeros(1, "float32") for i in range(23)}
    with pytest.raises(ValueError, match=r"stored.x09/kernel \(for x09/kernel\) and 13 more$"):
        build_with_weights(build, stored({**random_values(), **values}))


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_leaves_nothing(error):
    models = []

    def watched_build():
        models.append(build(rate=0.5))
        return models[0]

    def fail():
        raise error

    tensors = stored(random_values(), **{"up/bias": StoredTensor("stored.bias", (7,), fail)})
    with pytest.raises(error):
        build_with_weights(watched_build, tensors)
    assert [variable._value for variable in models[0].variables] == [None] * 4
    assert waiting_variables() == []


def test_failure_of_build_leaves_nothing():
    def failing_build():
        build()
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        shapes_only(failing_build)
    assert waiting_variables() == []


def test_progress(monkeypatch):
    def printed():
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            build_with_weights(build, stored(random_values()))
        return output.getvalue()

    assert printed() == ""
    monkeypatch.setattr(tensors, "_BYTES_WORTH_A_BAR", 1)
    monkeypatch.setattr(tensors, "_BYTES_PER_UNIT", 1)
    assert "252/252" in printed()
    keras.config.disable_interactive_logging()
    try:
        assert printed() == ""
    finally:
        keras.config.enable_interactive_logging()


def published(hidden_dim, mlp_dim, num_layers, num_heads, num_kv_heads, window, vision):
    local = AttentionConfig(num_heads, num_kv_heads, 256, window)
    full = AttentionConfig(num_heads, num_kv_heads, 256, rope_theta=1e6, rope_factor=8.0)
    stack = StackConfig(hidden_dim, mlp_dim, interleave(local, full, num_layers))
    return BackboneConfig(262144, stack, stack, VisionConfig() if vision else None)


@pytest.mark.once
@pytest.mark.parametrize(
    "sizes, with_vision, text_only",
    [
        ((640, 2048, 18, 4, 1, 512), 786_029_296, 368_424_832),
        pytest.param(
            *((1152, 6912, 26, 4, 1, 512), 2_115_977_456, 1_697_783_168), marks=pytest.mark.slow
        ),
        pytest.param(
            *((2560, 10240, 34, 8, 4, 1024), 7_508_928_880, 7_089_112_576), marks=pytest.mark.slow
        ),
    ],
)
def test_published_parameter_counts(sizes, with_vision, text_only):
    def count(vision):
        config = published(*sizes, vision)
        model = shapes_only(lambda: T5Gemma2Backbone(config, dtype="bfloat16"))
        assert all(variable._value is None for variable in model.variables)
        return model.count_params()

    assert (count(vision=True), count(vision=False)) == (with_vision, text_only)


@pytest.mark.once
@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="Linux says it there")
def test_the_memory_of_weights_is_shared_with_no_forked_process():
    values = loading._empty((1 << 23,), np.dtype("int16"))
    address = values.ctypes.data
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        area, permissions = line.split()[:2]
        start, stop = (int(end, 16) for end in area.split("-"))
        if start <= address < stop:
            assert permissions == "rw-p"
            return
    raise AssertionError("the address is in no area")


def test_what_was_taken_over_can_be_trained():
    """A step may write into the memory that it reads, and nobody else sees it."""
    values = random_values()
    before = {path: array.copy() for path, array in values.items()}
    tensors = stored({path: read_only(array) for path, array in values.items()})
    trained, usual = build_with_weights(build, tensors), build()
    for weight in usual.weights:
        weight.assign(values[weight.path])
    x = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    for model in (trained, usual):
        model.compile(optimizer="adam", loss="mse")
        model.fit(x, np.ones((4, 5)), epochs=3, batch_size=2, shuffle=False, verbose=0)
    for path, value in numpy_weights(trained).items():
        np.testing.assert_array_equal(value, numpy_weights(usual)[path])
        np.testing.assert_array_equal(values[path], before[path])
        assert not np.array_equal(value, before[path])
