"""Which axis of each variable is split over which axis of a mesh."""

import keras

from keras_t5gemma2.messages import shown
from keras_t5gemma2.sharding import layouts as sharding
from keras_t5gemma2.sharding.tokens import SEQUENCE

SPLIT, WIDTH = "split", "width"  # axes of variables: on the model axis, and on the data axis
_PREFIX = "(.*/)?"
_TEXT = f"{_PREFIX}(encoder|decoder)/layer_[0-9]+/"
_TOWER = f"{_PREFIX}vision/tower/layer_[0-9]+/"
_TABLE = f"{_PREFIX}(decoder_)?embedder/table/"
# Products whose outputs are split, and those that then take in what is split.
_COLUMNS = (
    _TEXT + "((cross_)?attention/(query|key|value)|mlp/(expert_[0-9]+/)?(gate|up))/",
    _TOWER + "(query|key|value|up)/",
)
_ROWS = (
    _TEXT + "((cross_)?attention/output|mlp/(expert_[0-9]+/)?down)/",
    _TOWER + "(output|down)/",
)
# What the axes of a variable are, by its path.
_AXES = {
    f"{_TABLE}embeddings": (SPLIT, WIDTH),
    f"{_TABLE}embeddings_scale": (SPLIT,),  # of a quantized table
    **{f"{layer}kernel": (WIDTH, SPLIT) for layer in _COLUMNS},
    **{f"{layer}(bias|kernel_scale)": (SPLIT,) for layer in _COLUMNS},
    **{f"{layer}kernel": (SPLIT, WIDTH) for layer in _ROWS},
    f"{_PREFIX}vision/tower/patch_embedding/kernel": (None, None, None, WIDTH),
    f"{_PREFIX}vision/tower/position_embedding": (None, WIDTH),
    f"{_PREFIX}vision/projector/projection/kernel": (None, WIDTH),
}


def get_layout_map(
    device_mesh: keras.distribution.DeviceMesh,
    model_parallel_dim_name: str = "model",
    data_parallel_dim_name: str = "batch",
    fsdp: bool = False,
    context_parallel: bool = False,
) -> keras.distribution.LayoutMap:
    """How the weights are spread over a mesh of devices, on JAX.

    Over the model axis: the embedding table by its vocabulary, attention by its heads and
    the MLPs by their width, in both stacks and in the vision tower; adapters and quantized
    kernels as the kernels are that they belong to. A weight that an axis does not divide
    stays whole along it, as the keys and values do where a layer has one key-value head.
    The map is by the paths of variables, and may be changed before a model is built.

    `keras_t5gemma2.distribution.distribute` chooses a mesh and sets all this in one call.

    Args:
        device_mesh: `keras.distribution.DeviceMesh` with these two axes, maybe of size 1.
        model_parallel_dim_name: string, the axis that weights are spread over.
        data_parallel_dim_name: string, the axis that the rows of a batch are spread over.
        fsdp: bool. Whether weights, and with them gradients and the optimizer's state, are
            also spread over the data axis, by their width. Each is put together where it is
            used: less memory for more traffic.
        context_parallel: bool. Whether the tokens of the encoder are spread over the data
            axis where there is a single row, for long inputs.

    Returns:
        `keras.distribution.LayoutMap`.

    Raises:
        TypeError, ValueError: no mesh, or one without these axes.

    Example:

    >>> mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), ["cpu:0"])
    >>> layout_map = keras_t5gemma2.T5Gemma2Backbone.get_layout_map(mesh)
    >>> layout_map["embedder/table/embeddings"].axes
    ('model', None)
    """
    model_axis, data_axis = model_parallel_dim_name, data_parallel_dim_name
    if not isinstance(device_mesh, keras.distribution.DeviceMesh):
        raise TypeError(
            "`device_mesh` must be a `keras.distribution.DeviceMesh`. Received: "
            f"device_mesh={shown(device_mesh)}"
        )
    names = {"model_parallel_dim_name": model_axis, "data_parallel_dim_name": data_axis}
    for name, value in names.items():
        if value not in device_mesh.axis_names:
            raise ValueError(
                f"`{name}` must be an axis of the mesh, whose axes are "
                f"{list(device_mesh.axis_names)}. Received: {name}={shown(value)}. An axis may "
                "have "
                "the size 1"
            )
    if model_axis == data_axis:
        raise ValueError(f"The two axes must differ. Received: {shown(model_axis)} for both")
    meaning = {SPLIT: model_axis, WIDTH: data_axis if fsdp else None, None: None}
    found = keras.distribution.LayoutMap(device_mesh)
    for path, axes in _AXES.items():
        layout = tuple(meaning[axis] for axis in axes)
        if any(layout):
            found[path] = layout
    if context_parallel:
        found[SEQUENCE] = (None, data_axis, None)
    return found


class ModelParallel(keras.distribution.ModelParallel):
    """Keras's, where a batch whose rows cannot be divided is not refused: all devices get it."""

    shares_single_rows = True

    def get_data_layout(self, data_shape):
        # Of the rows that this process has.
        parts = sharding.axis_sizes(self.device_mesh)[self.batch_dim_name]
        parts = max(1, parts // self.num_processes)
        if data_shape and data_shape[0] % parts == 0:
            return super().get_data_layout(data_shape)
        return keras.distribution.TensorLayout((None,) * len(data_shape), self.device_mesh)
