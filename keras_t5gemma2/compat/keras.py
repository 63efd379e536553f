"""Private names of Keras: of layers, variables, trainers and optimizers."""

import contextlib
import types

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common import variables as variables_of_keras
from keras.src.quantizers import gptq
from keras.src.trainers import data_adapters

# The base class of what `fit` reads batches from, and the one for `keras.utils.PyDataset`.
DataAdapter = data_adapters.data_adapter.DataAdapter
PyDatasetAdapter = data_adapters.PyDatasetAdapter

# Layers ----------------------------------------------------------------------------------------


def all_layers(layer):
    """Returns the layer and all layers inside it, at any depth (Keras 3.15.1)."""
    return layer._flatten_layers()


def register_parameters(layer):
    """Registers a built layer's variables with torch's module; elsewhere a no-op (Keras 3.15.1)."""
    layer._post_build()


def register_all_parameters(model):
    """Registers the variables of every built layer inside a model (Keras 3.15.1)."""
    for layer in all_layers(model):
        if layer.built:
            register_parameters(layer)


def finish_quantizing(model, mode):
    """Drops what a model still holds of the variables before `quantize` (Keras 3.15.1)."""
    model._post_quantize(mode)


@contextlib.contextmanager
def unlocked(layer):
    """A block in which a built layer gains and loses variables (Keras 3.15.1)."""
    tracker = layer._tracker
    was_locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            tracker.lock()


def own_variables(layer):
    """Returns the variables of a layer without those of layers inside it (Keras 3.15.1)."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def track_again(layer, variables):
    """Adds variables to those of a layer, which is locked if it is built (Keras 3.15.1)."""
    with unlocked(layer):
        for variable in variables:
            layer._track_variable(variable)


def untrack(layer, variable):
    """Removes a variable from those of a layer (Keras 3.15.1)."""
    layer._untrack_variable(variable)


def matrix(layer, name):
    """Returns the variable behind `layer.kernel` or `layer.embeddings` (Keras 3.15.1).

    The public property computes: it adds Keras's own adapters, and unpacks integers.

    Args:
        layer: `keras.layers.Dense` or `keras.layers.Embedding`.
        name: "kernel" or "embeddings".

    Returns:
        The variable, or `None` where the layer has none, as after GPTQ.
    """
    return getattr(layer, f"_{name}", None)


def remove_matrix(layer, name):
    """Removes the variable that `matrix` returns (Keras 3.15.1).

    `del layer._kernel` also collects garbage, which takes half a second a layer.
    """
    untrack(layer, vars(layer).pop(f"_{name}"))


def int4_block_size(layer):
    """Returns how many weights share a scale in an int4 layer; -1 or `None`: all (Keras 3.15.1)."""
    return layer._int4_block_size


@contextlib.contextmanager
def gptq_inverting_by(invert):
    """A block in which GPTQ calls `invert(hessian)` for the inverse of a Hessian (Keras 3.15.1)."""
    linalg, gptq.linalg = gptq.linalg, types.SimpleNamespace(inv=invert)
    try:
        yield
    finally:
        gptq.linalg = linalg


# Variables -------------------------------------------------------------------------------------


def build_without_values(build):
    """Builds a model none of whose variables is allocated (Keras 3.15.1).

    Args:
        build: function without arguments that returns a built `keras.Model`.

    Returns:
        The model, and the list of all variables that wait for their values.
    """
    waiting = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    num_waiting = len(waiting)
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = build()
    finally:
        # The next stateless scope would initialize them once more.
        created = waiting[num_waiting:]
        del waiting[num_waiting:]
    return model, created


def has_value(variable):
    """Returns whether a variable is allocated (Keras 3.15.1)."""
    return variable._value is not None


def initialize(variable, value):
    """Gives a variable that waits for its value this one, without a copy (Keras 3.15.1)."""
    variable._initialize(value)
    variable._initializer = None


def initialize_by_initializer(variable):
    """Gives a variable that waits for its value that of its initializer (Keras 3.15.1)."""
    variable._deferred_initialize()


def replace_value(variable, value):
    """Replaces the array of a variable by another one or by `None` (Keras 3.15.1)."""
    variable._value = value


def uncast(variable):
    """Returns a variable as a tensor of its own dtype, also in a layer's call (Keras 3.15.1)."""
    with variables_of_keras.AutocastScope(None):
        # The value: for TensorFlow the variable itself is a tensor already, which is cast later.
        return keras.ops.convert_to_tensor(variable.value)


def layout(variable):
    """Returns how a variable is laid out on devices, or `None` (Keras 3.15.1)."""
    return getattr(variable, "_layout", None)


def set_layout(variable, value):
    """Sets how a variable that waits for its value is laid out on devices (Keras 3.15.1)."""
    variable._layout = value


# Trainers and optimizers -----------------------------------------------------------------------


def set_functions(model, **functions):
    """Sets compiled functions of a model, such as `predict_function` (Keras 3.15.1).

    `None` for one that shall be compiled anew.
    """
    for name, function in functions.items():
        setattr(model, name, function)


def never_torch_compiled(cls):
    """Decorates a model whose training steps `torch.compile` leaves alone (Keras 3.15.1).

    `jit_compile=False` cannot say it where `jit_compile` means something else.
    """
    cls._should_torch_compile = lambda self: False
    return cls


def asked_before_cloning(check):
    """Decorates a functional model: `clone_model` calls `check(model)` first (Keras 3.15.1)."""

    def decorate(cls):
        def run(self, inputs, *args, **kwargs):
            # `clone_model` alone gives both.
            if kwargs.keys() >= {"operation_fn", "call_fn"}:
                check(self)
            return super(cls, self)._run_through_graph(inputs, *args, **kwargs)

        cls._run_through_graph = run
        return cls

    return decorate


def set_first_epoch(model, epoch):
    """Sets the epoch that a `fit` under way begins with; `None`: as `fit` says (Keras 3.15.1)."""
    model._initial_epoch = epoch


def first_epoch(model):
    """Returns what `set_first_epoch` set, or `None` (Keras 3.15.1)."""
    return getattr(model, "_initial_epoch", None)


def go_on_training(model):
    """Takes back what a callback has set to end an earlier `fit` (Keras 3.15.1)."""
    model.stop_training = False


def forget_loss(model):
    """Removes the loss and metrics of an earlier `compile` (Keras 3.15.1)."""
    model._compile_loss = model._compile_metrics = None


def scaled_loss(model, loss):
    """Returns a loss that a layer added, scaled as Keras adds it to the sum (Keras 3.15.1)."""
    return model._aggregate_additional_loss(loss)


def trained_variables(optimizer):
    """Returns the variables that an optimizer was built for (Keras 3.15.1)."""
    return optimizer._trainable_variables


def moving_averages(optimizer):
    """Returns the averages of the weights that `use_ema=True` keeps (Keras 3.15.1)."""
    return optimizer._model_variables_moving_average


def accumulated_gradients(optimizer, gradients, variables):
    """Returns the gradients that an optimizer steps by, and whether it steps (Keras 3.15.1).

    Where it adds up gradients over several calls, they are the mean of those since the last step.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        gradients: list of tensors or `None`, what `apply` is called with.
        variables: list, their variables.
    """
    if (scale := optimizer.loss_scale_factor) is not None:
        gradients = [None if g is None else g / scale for g in gradients]
    if not (count := optimizer.gradient_accumulation_steps):
        return gradients, True
    own = [optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables]
    pairs = zip(gradients, own, strict=True)
    # Added into a tensor of its own: torch's accumulators change in place.
    means = [None if g is None else (g + keras.ops.convert_to_tensor(a)) / count for g, a in pairs]
    return means, keras.ops.equal((optimizer._iterations + 1) % count, 0)


@contextlib.contextmanager
def applying_by(optimizer, apply):
    """A block in which trainers call `apply` for `optimizer.apply` (Keras 3.15.1)."""
    optimizer.apply = apply
    try:
        yield
    finally:
        del optimizer.apply


def set_regularizer(variable, regularizer):
    """Sets what a layer adds to the loss for a variable, or `None` (Keras 3.15.1)."""
    variable.regularizer = regularizer


def forget_optimizer_variables(optimizer, variables):
    """Takes variables out of those of an optimizer that `add_variable` made (Keras 3.15.1)."""
    gone = {id(variable) for variable in variables}
    kept = [variable for variable in optimizer._variables if id(variable) not in gone]
    optimizer._variables.clear()
    optimizer._variables.extend(kept)


# Files -----------------------------------------------------------------------------------------


def stored_group(store):
    """Returns the HDF5 group of a layer and those inside it, or `None` (Keras 3.15.1).

    Args:
        store: what `load_own_variables` gets.
    """
    file = getattr(store, "h5_file", None)
    path = getattr(store, "_h5_entry_path", "")
    if file is None or not path:
        return file
    return file.get(path)
