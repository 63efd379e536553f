"""Meshes of the eight virtual devices, for tests on JAX."""

import contextlib

import keras

from keras_t5gemma2 import T5Gemma2Backbone


def device_mesh(rows, parts):
    devices = keras.distribution.list_devices()[: rows * parts]
    return keras.distribution.DeviceMesh((rows, parts), ("batch", "model"), devices)


@contextlib.contextmanager
def distributed(rows, parts, **kwargs):
    """Inside, models are spread as a user of Keras would have it."""
    layout_map = T5Gemma2Backbone.get_layout_map(device_mesh(rows, parts), **kwargs)
    distribution = keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    with distribution.scope():
        yield distribution


@contextlib.contextmanager
def distributed_not_at_all():
    """Inside, models are on one device."""
    given = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(given)


def axes(variable):
    """The mesh axis, or `None`, that each axis of a variable's value is on."""
    spec = tuple(variable.value.sharding.spec)
    return spec + (None,) * (len(variable.shape) - len(spec))


def bytes_on_devices(variables):
    """Dict from devices to the bytes of the variables that they hold."""
    found = {}
    for variable in variables:
        for shard in variable.value.addressable_shards:
            found[shard.device] = found.get(shard.device, 0) + shard.data.nbytes
    return found
