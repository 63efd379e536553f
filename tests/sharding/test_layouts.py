"""Variables are spread as far as their sizes allow."""

import types

import keras
import pytest
from meshes import axes, device_mesh, distributed
from tiny_models import CONFIG as WITH_VISION

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.sharding import layouts

on_jax = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)


@on_jax
@pytest.mark.parametrize("rows, parts", [(4, 2), (2, 4), (1, 8), (1, 7), (8, 1)])
def test_what_does_not_divide_stays_whole(rows, parts):
    """Heads are not cut, and sizes that the mesh does not divide are no error."""
    with distributed(rows, parts, fsdp=True):
        backbone = T5Gemma2Backbone(WITH_VISION)
    where = {v.path: axes(v) for v in backbone.weights}
    of_heads = {n: "model" if parts > 1 and n % parts == 0 else None for n in (3, 6, 44, 101)}
    if parts == 1:
        of_heads = dict.fromkeys(of_heads, "model")
    of_width = "batch" if 28 % rows == 0 else None
    assert where["encoder/layer_1/attention/query/kernel"] == (of_width, of_heads[6])
    assert where["encoder/layer_1/attention/key/kernel"] == (of_width, of_heads[3])
    assert where["encoder/layer_1/mlp/up/kernel"] == (of_width, of_heads[44])
    assert where["embedder/table/embeddings"] == (of_heads[101], of_width)
    assert where["vision/tower/layer_0/query/kernel"][1] == of_heads[3]


@on_jax
def test_heads_are_not_cut():
    """Of six heads of keys' width eight, the six are divided, or nothing is."""
    mesh = device_mesh(2, 4)

    def fitted(path, shape, wanted):
        variable = types.SimpleNamespace(path=path, shape=shape)
        layout = keras.distribution.TensorLayout(wanted, mesh)
        return tuple(layouts.fitted(layout, variable, WITH_VISION).axes)

    path = "encoder/layer_0/attention/{}/kernel"
    assert fitted(path.format("query"), (28, 48), ("batch", "model")) == ("batch", None)
    assert fitted(path.format("output"), (48, 28), ("model", "batch")) == (None, "batch")
    assert fitted("encoder/layer_0/mlp/up/kernel", (27, 48), ("batch", "model")) == (None, "model")
    # Scales of a quantized kernel, in another form than the layout is of.
    assert fitted(path.format("query"), (48,), ("batch", "model")) == (None,)
    assert fitted("vision/tower/layer_0/key/bias", (24,), ("model",)) == (None,)


@on_jax
def test_what_a_layer_makes_beside_its_kernel_is_laid_out_as_that():
    with distributed(2, 4) as distribution:
        layer = keras.layers.Dense(8, name="layer")
        distribution._layout_map["layer/kernel"] = ("batch", "model")
        layer.build((None, 12))
        with layouts.following(layer.kernel):
            made = {
                shape: layer_of(shape)
                for shape in [(12, 3), (3, 8), (12, 8), (12, 4), (8,), (12,), (2, 3, 4)]
            }
    assert made == {
        (12, 3): ("batch", None),
        (3, 8): (None, "model"),
        (12, 8): ("batch", "model"),
        (12, 4): ("batch", "model"),  # two numbers to a byte
        (8,): ("model",),
        (12,): (None,),
        (2, 3, 4): (None, None, None),
    }


def layer_of(shape):
    return axes(keras.Variable("zeros", shape=shape, name="x"))


def test_without_a_distribution_nothing_is_laid_out():
    assert not layouts.is_model_parallel()
    variable = keras.Variable([1.0, 2.0])
    with layouts.fitting(WITH_VISION), layouts.following(variable):
        layouts.lay_out([variable], WITH_VISION)
        assert keras.distribution.distribution() is None


@on_jax
def test_axis_sizes():
    assert layouts.axis_sizes(device_mesh(2, 4)) == {"batch": 2, "model": 4}
