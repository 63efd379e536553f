"""From numpy to tensors without a detour."""

import keras
from keras import ops


def take_over(values):
    """A tensor of `values`, a numpy array that nobody else uses from now on.

    Keras would copy it for torch, and take what numpy does not know itself, such as bfloat16,
    there by way of float32. Elsewhere it does neither.
    """
    if keras.config.backend() != "torch" or values.ndim == 0:
        return ops.convert_to_tensor(values)
    import torch

    # Keras knows the device.
    device = ops.convert_to_tensor(values.reshape(-1)[:0]).device
    if values.dtype.kind != "V":
        return torch.from_numpy(values).to(device)
    bits = torch.from_numpy(values.view(f"int{8 * values.dtype.itemsize}"))
    return bits.view(getattr(torch, str(values.dtype))).to(device)


def take_over_parts(read, shape, layout):
    """A tensor of which each device holds its part alone, on JAX.

    Args:
        read: function from an index, a tuple of slices, to an array of that part that nobody
            else uses. It is called once for each part that a device of this process holds.
        shape: tuple of ints, of the whole.
        layout: `keras.distribution.TensorLayout`.
    """
    import jax

    parts = {}

    def part(index):
        bounds = tuple((where.start, where.stop) for where in index)
        if bounds not in parts:
            parts[bounds] = read(index)
        return parts[bounds]

    return jax.make_array_from_callback(shape, layout.backend_layout, part)
