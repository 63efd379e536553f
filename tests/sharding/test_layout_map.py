"""Which axes of variables are split over which axes of a mesh."""

import keras
import pytest
from ahead_of_time import Described, collectives_in, config
from meshes import device_mesh, distributed

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    VisionConfig,
)
from keras_t5gemma2.model.loading import shapes_only
from keras_t5gemma2.sharding.layout_map import ModelParallel, get_layout_map
from keras_t5gemma2.sharding.tokens import SEQUENCE

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Keras distributes models on JAX alone"
)


# The 270m model's, a layer of each stack and of the vision tower.
PUBLISHED = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=256, window=512)


STACK = StackConfig(hidden_dim=640, mlp_dim=2048, layers=(PUBLISHED,))


PUBLISHED_CONFIG = BackboneConfig(
    vocabulary_size=262_144, encoder=STACK, decoder=STACK, vision=VisionConfig(num_layers=1)
)


PUBLISHED_AXES = {
    "embedder/table/embeddings": ("model", "batch"),
    "embedder/end_of_image": (None,),
    "encoder/layer_0/attention_norm/scale": (None,),
    "encoder/layer_0/attention/query/kernel": ("batch", "model"),
    "encoder/layer_0/attention/key/kernel": ("batch", None),
    "decoder/layer_0/attention/value/kernel": ("batch", None),
    "decoder/layer_0/attention/output/kernel": ("model", "batch"),
    "decoder/layer_0/mlp/gate/kernel": ("batch", "model"),
    "decoder/layer_0/mlp/up/kernel": ("batch", "model"),
    "decoder/layer_0/mlp/down/kernel": ("model", "batch"),
    "vision/tower/patch_embedding/kernel": (None, None, None, "batch"),
    "vision/tower/position_embedding": (None, "batch"),
    "vision/tower/layer_0/key/kernel": ("batch", "model"),
    "vision/tower/layer_0/key/bias": ("model",),
    "vision/tower/layer_0/output/kernel": ("model", "batch"),
    "vision/tower/layer_0/output/bias": (None,),
    "vision/tower/layer_0/up/kernel": ("batch", "model"),
    "vision/tower/layer_0/down/kernel": ("model", "batch"),
    "vision/projector/projection/kernel": (None, "batch"),
}


@pytest.mark.parametrize("fsdp", [False, True])
def test_layouts_of_published_sizes(fsdp):
    with distributed(2, 4, fsdp=fsdp):
        model = shapes_only(lambda: T5Gemma2Backbone(PUBLISHED_CONFIG))
    found = {v.path: tuple(v._layout.axes) for v in model.weights}
    for path, expected in PUBLISHED_AXES.items():
        without = tuple(None if axis == "batch" else axis for axis in expected)
        assert found[path] == (expected if fsdp else without), path


def test_axes_that_the_mesh_does_not_have():
    mesh = keras.distribution.DeviceMesh((8,), ("batch",))
    with pytest.raises(ValueError, match=r"are \['batch'\].*model_parallel_dim_name='model'"):
        T5Gemma2Backbone.get_layout_map(mesh)
    with pytest.raises(ValueError, match="data_parallel_dim_name='rows'"):
        T5Gemma2Backbone.get_layout_map(device_mesh(4, 2), data_parallel_dim_name="rows")
    with pytest.raises(ValueError, match="'batch' for both"):
        T5Gemma2Backbone.get_layout_map(device_mesh(4, 2), model_parallel_dim_name="batch")
    with pytest.raises(TypeError, match="device_mesh=8"):
        T5Gemma2Backbone.get_layout_map(8)
    names = {"model_parallel_dim_name": "batch", "data_parallel_dim_name": "model"}
    layout_map = T5Gemma2Backbone.get_layout_map(device_mesh(4, 2), **names, fsdp=True)
    layout = layout_map["encoder/layer_0/mlp/up/kernel"]
    assert layout.axes == ("model", "batch")


def test_a_batch_that_cannot_be_divided_goes_to_all_devices():
    mesh = device_mesh(4, 2)
    layout_map = get_layout_map(mesh)
    chosen = ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    assert chosen.get_data_layout((8, 3)).axes == ("batch", None)
    for shape in ((6, 3), (1, 3)):
        assert chosen.get_data_layout(shape).axes == (None, None)
    assert chosen.get_data_layout(()).axes == ()


def test_tokens_are_spread_where_it_is_asked_for():
    for context_parallel, wanted in ((True, (None, "batch", None)), (False, None)):
        layout = get_layout_map(device_mesh(4, 2), context_parallel=context_parallel)[SEQUENCE]
        assert (layout and layout.axes) == wanted


def test_a_layer_adds_up_twice_what_devices_have_computed():
    """A layer of each stack, one lookup of both stacks' tokens, and nothing else is sent."""
    program = Described(config(), "cpu", (1, 4)).forward(1, 512, 128)
    assert collectives_in(program) == {"all-reduce": 5}
