"""From tensors to numpy without a detour."""

import keras
import ml_dtypes
import numpy as np


def host_array(tensor):
    """A numpy view of a tensor's values, to be read only, and gone before the tensor changes.

    Nothing is copied where the tensor is in the memory of the CPU. Keras would copy it, and take
    torch's bfloat16 by way of float32. What is on an accelerator is copied, and nothing keeps
    the copy.
    """
    if keras.config.backend() == "torch":
        return _of_torch(tensor)
    if keras.config.backend() == "jax":
        return _of_jax(tensor)
    return _of_tensorflow(tensor)


def _of_torch(tensor):
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _of_jax(array):
    import jax.numpy as jnp

    if any(device.platform != "cpu" for device in array.devices()):
        # An array keeps what it was copied to; this one is gone at once.
        array = jnp.copy(array)
    return np.asarray(array)


def _of_tensorflow(tensor):
    import tensorflow as tf

    tensor = tf.convert_to_tensor(tensor)  # of a variable
    if tensor.dtype != tf.bfloat16:
        return np.asarray(memoryview(tensor))
    return np.asarray(memoryview(tf.bitcast(tensor, tf.int16))).view(ml_dtypes.bfloat16)
