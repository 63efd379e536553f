"""Models whose variables come to life with the values of a checkpoint, one tensor at a time.

Keras has no public way to build a model without values, so this file uses what Keras itself does
with variables that are made in a `StatelessScope`: it lists them, and initializes them later.
"""

import concurrent.futures
import mmap
import os

import keras
import ml_dtypes  # noqa: F401  gives numpy the name "bfloat16"
import numpy as np

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.files.finite import is_finite, nonfinite_message
from keras_t5gemma2.files.tensors import list_names, nothing, num_bytes, progress_bar
from keras_t5gemma2.kernels.runtime.host_memory import take_over, take_over_shards, takes_columns
from keras_t5gemma2.quantization.layers import Quantizable

# Values are copied out of a file in pieces, so that only a piece of the file is in memory.
_BYTES_PER_PIECE = 1 << 20
# In memory of this size, pages of 2 MiB waste little.
_BYTES_WORTH_HUGE_PAGES = 1 << 23
# More threads than this wait for memory.
_MOST_THREADS = 4


def build_with_weights(build, tensors_by_path, allow_nonfinite=False):
    """The model that `build` gives, with the weights of a checkpoint.

    No variable is allocated before its value is read, and the largest are read first, while
    there is most room: at no time is there much more in memory than the final weights. Of a
    variable that is spread over devices, each gets its part, and nothing else.

    Args:
        build: function without arguments that gives a built `keras.Model`. Its layers may be
            quantized: where there is only the tensor of floats for the matrix of one, it is made
            one of integers as it is read.
        tensors_by_path: dict of `StoredTensor` by the `path` of the variable that takes it, one
            for each of `model.weights`. What is no weight, such as the state of a random seed,
            gets its initial value.
        allow_nonfinite: bool. Whether values may be NaN or infinite.

    Returns:
        The model. Each variable has the dtype that `build` gave it.

    Raises:
        ValueError: a weight has no tensor, a tensor no weight, or the two differ in shape, or
            one is of integers and the other is not, or values are not finite. Whatever had been
            read is freed.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_t5gemma2.files.tensors import StoredTensor
    >>> def build():
    ...     inputs = keras.Input((2,))
    ...     return keras.Model(inputs, keras.layers.Dense(3, use_bias=False, name="d")(inputs))
    >>> kernel = StoredTensor("weight", (2, 3), lambda: np.ones((2, 3), "float32"))
    >>> model = build_with_weights(build, {"d/kernel": kernel})
    >>> keras.ops.convert_to_numpy(model(np.ones((1, 2))))[0, 0].item()
    2.0
    """
    model, created = compat.build_without_values(build)
    is_float = keras.backend.is_float_dtype
    frozen = [v for v in created if v.trainable is False and is_float(v.dtype)]
    try:
        pairs = _pair(model, tensors_by_path)
        # TensorFlow never differentiates by a value that was made for a frozen variable, so that
        # what is frozen at first could not be trained later.
        weights = {id(variable) for variable in model.weights}
        for variable in frozen:
            variable.trainable = id(variable) in weights
        _fill(pairs, allow_nonfinite)
        for variable in created:
            if not compat.has_value(variable):
                compat.initialize_by_initializer(variable)
        for variable in frozen:
            variable.trainable = False
    except BaseException:
        # An exception keeps the frames it passed through, and with them the model.
        for variable in created:
            compat.replace_value(variable, None)
        raise
    # On torch this makes parameters of the values; building had none to offer.
    compat.register_all_parameters(model)
    return model


def shapes_only(build):
    """The model that `build` gives, none of whose variables is allocated.

    It has paths, shapes and dtypes, and serves to count and to plan; it cannot be called, and
    its variables have no values.

    Args:
        build: function without arguments that gives a built `keras.Model`.

    Example:

    >>> import keras
    >>> def build():
    ...     inputs = keras.Input((10**5,))
    ...     return keras.Model(inputs, keras.layers.Dense(10**7)(inputs))
    >>> f"{shapes_only(build).count_params():,}"
    '1,000,010,000,000'
    """
    return compat.build_without_values(build)[0]


def _pair(model, tensors_by_path):
    """List of (variable or layer to be quantized, tensor), the largest first."""
    variables = {variable.path: variable for variable in model.weights}
    for layer in _layers_to_quantize(model, tensors_by_path):
        matrix, *others = (variable.path for variable in layer.quantized_variables)
        variables[matrix] = layer
        for path in others:
            del variables[path]
    if missing := sorted(set(variables) - set(tensors_by_path)):
        raise ValueError(
            f"Every weight of the model must have a tensor. Without one: {list_names(missing)}"
        )
    if unexpected := sorted(set(tensors_by_path) - set(variables)):
        names = [f"{tensors_by_path[path].name} (for {path})" for path in unexpected]
        raise ValueError(
            f"Every tensor must be for a weight of the model. Unexpected: {list_names(names)}"
        )
    pairs = [(target, tensors_by_path[path]) for path, target in variables.items()]
    for path, target in variables.items():
        tensor = tensors_by_path[path]
        shape = target.matrix_shape if isinstance(target, Quantizable) else target.shape
        wanted = tensor.layout.from_variable_shape(tuple(shape))
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"The tensor {tensor.name}, for the variable {path}, must have the shape "
                f"{wanted} in the checkpoint. Received: shape={tuple(tensor.shape)}"
            )
    return sorted(pairs, key=lambda pair: -_num_bytes_of(pair[0]))


def _layers_to_quantize(model, tensors_by_path):
    """The quantized layers whose matrix alone there is a tensor for."""
    layers = [layer for layer in compat.all_layers(model) if isinstance(layer, Quantizable)]
    layers = [layer for layer in layers if layer.quantization_mode in ("int8", "int4")]
    scales = {layer.path: layer.quantized_variables[1].path for layer in layers}
    return [layer for layer in layers if scales[layer.path] not in tensors_by_path]


def _num_bytes_of(target):
    """As `num_bytes`, also of all variables of a layer that is quantized."""
    variables = target.quantized_variables if isinstance(target, Quantizable) else [target]
    return sum(map(num_bytes, variables))


def _fill(pairs, allow_nonfinite):
    progress = progress_bar(sum(_num_bytes_of(target) for target, _ in pairs))
    done = 0
    with concurrent.futures.ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for target, tensor in pairs:
            for variable, value in _values(target, tensor, pool, allow_nonfinite):
                compat.initialize(variable, value)
            done += _num_bytes_of(target)
            progress(done)


def _values(target, tensor, pool, allow_nonfinite):
    """Pairs of variables and what they are initialized with, one at a time."""
    source = tensor.layout.to_variable(tensor.read())
    checked = None if allow_nonfinite else tensor.name
    if isinstance(target, Quantizable):
        if checked is not None:
            _check_finite(source, source, tensor.release, pool, checked)
        found = target.quantized_values(source, empty=_empty, release=tensor.release)
        for variable, values in zip(target.quantized_variables, found, strict=True):
            yield variable, _value(values, variable, nothing, pool, checked)
        return
    dtype = np.dtype(target.dtype)
    if source.dtype != dtype and {source.dtype.kind, dtype.kind} & {"i", "u"}:
        raise ValueError(
            f"The tensor {tensor.name} must be of type {dtype}, as its variable is. Received: "
            f"{source.dtype}"
        )
    yield target, _value(source, target, tensor.release, pool, checked)


def _value(source, variable, release, pool, checked):
    """The values of `source` where the variable is to have them."""
    dtype = np.dtype(variable.dtype)
    layout = compat.layout(variable)
    if layout is None:
        return take_over(_owned(source, dtype, release, pool, checked))

    def read(index):
        return _owned(source[index], dtype, release, pool, checked)

    return take_over_shards(read, source.shape, layout)


def _owned(source, dtype, release, pool, checked=None):
    """The values of `source` in `dtype`, in memory that nobody else has a hold on.

    Where `checked` names the tensor, they must be finite.
    """
    if source.ndim == 2 and not source.flags.c_contiguous and takes_columns():
        # To put rows where columns were takes several times as long as to copy.
        return _owned(source.T, dtype, release, pool, checked).T
    if source.flags.writeable and source.flags.c_contiguous and source.dtype == dtype:
        if checked is not None:
            _check_finite(source, source, nothing, pool, checked)
        return source
    values = _empty(source.shape, dtype)

    def copy(piece):
        _copy(source[piece], values, piece)
        # Looked at while it is in cache.
        is_sound = checked is None or is_finite(values[piece])
        release()
        return is_sound

    # Every piece is waited for, and what one of them raises is raised.
    if not all(list(pool.map(copy, _pieces(source)))):
        raise ValueError(nonfinite_message(checked, source, values))
    return values


def _check_finite(source, values, release, pool, name):
    """Raises where not all values are finite."""

    def look(piece):
        is_sound = is_finite(values[piece])
        release()
        return is_sound

    if not all(list(pool.map(look, _pieces(values)))):
        raise ValueError(nonfinite_message(name, source, values))


def _copy(source, values, piece):
    """`values[piece] = source`, and quicker where bfloat16 becomes float32."""
    if source.dtype == "bfloat16" and values.dtype == "float32":
        # The upper half of its bits. In integers numpy lets threads work side by side.
        bits = values.view("uint32")
        bits[piece] = source.view("uint16")
        bits[piece] <<= 16
    else:
        # What overflows is found where values are checked.
        with np.errstate(over="ignore"):
            values[piece] = source


def _empty(shape, dtype):
    """An array whose memory goes back to the system with it.

    The heap would keep the room of an array that is copied and dropped, between the copies.
    """
    count = int(np.prod(shape))
    length = max(1, count * dtype.itemsize)
    if not hasattr(mmap, "MAP_PRIVATE"):
        memory = mmap.mmap(-1, length)
    else:
        # Python's default is memory that a forked process would share.
        memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if length >= _BYTES_WORTH_HUGE_PAGES and hasattr(mmap, "MADV_HUGEPAGE"):
            # To be given page after small page takes longer than to copy what comes into them.
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def _pieces(source):
    """Indices of slices of `source` that lie one after another in its memory."""
    if source.ndim == 0:
        return [()]
    axis = int(np.argmax(source.strides))
    length = source.shape[axis]
    step = max(1, length * _BYTES_PER_PIECE // max(1, source.nbytes))
    before = (slice(None),) * axis
    return [(*before, slice(start, start + step)) for start in range(0, length, step)]
