"""Adapters merged into the kernel of a layer, and taken out of it again.

Every function takes the layer, a `lora.dense.Dense`. What fails or is interrupted leaves the
kernel as it was.
"""

import contextlib

import numpy as np
from keras import initializers, ops

from keras_t5gemma2.kernels.runtime.host_memory import host_array


def merge(layer):
    """Adds what the active adapters compute to the kernel.

    A kernel of integers is quantized again, and the integers of before are kept. A layer whose
    adapters are merged already stays as it is.
    """
    if layer.merged is not None:
        return
    factors = _factors(layer)
    if not factors[1]:
        return
    if layer.quantization_mode is None:
        variable = layer.matrix_variable
        with _as_before_if_it_fails(layer, variable):
            variable.assign(ops.cast(merged_kernel(layer), variable.dtype))
            layer.merged = factors
    else:
        before = [np.array(host_array(v.value)) for v in layer.code_variables]
        merged = ops.convert_to_tensor(merged_kernel(layer))
        codes = layer.codes_of(host_array(merged))
        with _as_before_if_it_fails(layer, *layer.code_variables):
            layer.assign_codes(codes)
            layer.merged = before


def unmerge(layer):
    """Takes out of the kernel what `merge` added."""
    if layer.merged is None:
        return
    if layer.quantization_mode is not None:
        with _as_before_if_it_fails(layer, *layer.code_variables):
            layer.assign_codes(layer.merged)
            layer.merged = None
        return
    of_kernel, of_products = layer.merged
    variable = layer.matrix_variable
    kernel = (ops.cast(variable, "float32") - _sum(layer, of_products)) / of_kernel
    with _as_before_if_it_fails(layer, variable):
        variable.assign(ops.cast(kernel, variable.dtype))
        layer.merged = None


def restart(layer, name):
    """Puts the one active adapter into a kernel of floats for good, and starts it anew."""
    adapter, variable = layer.adapters[name], layer.matrix_variable
    kernel = ops.cast(merged_kernel(layer), variable.dtype)
    with _as_before_if_it_fails(layer, variable, adapter.a, adapter.b):
        variable.assign(kernel)
        adapter.a.assign(uniform()(adapter.a.shape, dtype=adapter.a.dtype))
        adapter.b.assign(ops.zeros(adapter.b.shape, dtype=adapter.b.dtype))


def uniform():
    """What A starts as in `torch.nn.Linear` and peft: uniform within 1 / sqrt(width)."""
    return initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def merged_kernel(layer):
    """See `Dense.merged_kernel`."""
    of_kernel, of_products = _factors(layer)
    if not of_products:
        return ops.convert_to_tensor(layer.matrix_variable)
    is_float = layer.quantization_mode is None
    kernel = layer.matrix_variable if is_float else layer.float_matrix()
    return ops.cast(kernel, "float32") * of_kernel + _sum(layer, of_products)


def _factors(layer):
    """Per column: what the kernel itself is multiplied by, and each product A B."""
    if layer.quantization_mode not in (None, "int8", "int4"):
        raise ValueError(
            "Adapters can be merged into kernels of floats, int8 and int4. Received: "
            f"{layer.path}, quantized by {layer.quantization_mode!r}. Merge before the model "
            "is quantized, or leave the adapters beside the kernel."
        )
    of_kernel, of_products = 1.0, {}
    for name, weight in layer.active.items():
        if (adapter := layer.adapters.get(name)) is None:
            continue
        factor = 1.0
        if adapter.magnitude is not None:
            norms = adapter.column_norms(layer.matrix_variable, layer.compute_dtype)
            factor = ops.convert_to_tensor(adapter.magnitude) / norms
            of_kernel = of_kernel + weight * (factor - 1.0)
        of_products[name] = weight * adapter.scale * factor
    return of_kernel, of_products


@contextlib.contextmanager
def _as_before_if_it_fails(layer, *variables):
    """Restores the variables and `layer.merged` if the block raises."""
    merged, values = layer.merged, [ops.copy(variable) for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        layer.merged = merged
        raise


def _sum(layer, of_products):
    products = []
    for name, factor in of_products.items():
        a, b = layer.adapters[name].factors("float32")
        products.append(ops.matmul(a, b * factor))
    return sum(products[1:], products[0])
