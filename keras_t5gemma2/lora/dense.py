"""The dense layer of the text stacks: a kernel, and any number of adapters on it."""

import dataclasses

import numpy as np
from keras import initializers, layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.compat.plain_call import PlainCall
from keras_t5gemma2.layer_config import registered
from keras_t5gemma2.lora import merging, starts
from keras_t5gemma2.lora.adapter import Adapter
from keras_t5gemma2.lora.apart import are_apart
from keras_t5gemma2.lora.watching import show
from keras_t5gemma2.messages import shown, shown_names
from keras_t5gemma2.quantization.layers import QuantizedDense
from keras_t5gemma2.sharding import layouts as sharding

_REFUSAL = (
    "Adapters belong to the task, which freezes, saves and merges them together: call "
    "`T5Gemma2Seq2SeqLM.enable_lora`, with the path of the layer in `target`. Received: a call of "
    "`enable_lora` of the layer {path}."
)

# Starts that give a part of the kernel to A B: it is taken out again beside them.
_TAKEN_OUT_AGAIN = ("pissa", "olora")
_NORMAL = initializers.RandomNormal(stddev=0.02)  # of AdaLoRA, whose E is 0


@registered
class Dense(PlainCall, QuantizedDense):
    """x W, plus (x A) B of each active adapter: never W + A B, nor a gradient of its size.

    W may be of integers: the adapters beside it are trained all the same.

    The adapters are float32 whatever the policy, since steps of training are too small for
    fewer bits, and are cast to the compute dtype where they are used.

    Args:
        units: int. Width of the output.
        use_bias: bool.
        **kwargs: as `keras.layers.Dense` has them.
    """

    def __init__(self, units, use_bias=False, **kwargs):
        super().__init__(units, use_bias=use_bias, **kwargs)
        self.adapters = {}  # by name
        self.dropouts = {}  # by name, of the adapters that have one
        self.active = {}  # from the names of those that compute to their weights
        self.merged = None  # what `unmerge` needs
        self.awaiting = []  # the names of adapters that `quantize` gives their values
        self._refusal = None  # why the last such file was not read

    def call(self, x, training=None):
        y = kernels.product(x, self.rounded_matrix())
        y = y if self.bias is None else y + self.bias
        return self._adapt(x, y, training)

    def quantized_call(self, x, training=None):
        y = super().quantized_call(x, training=training)
        # Before it is calibrated, a layer is called as if it were not quantized.
        return self._adapt(x, y, training) if self.has_integers else y

    def lay_out(self, is_training):
        """Has the kernel in memory as products with few rows read it, unless it is trained."""
        if self.quantization_mode == "int8":
            kernels.lay_out(self.matrix_variable, for_steps=True)
        elif self.quantization_mode is None:
            is_trained = is_training and self.matrix_variable.trainable
            kernels.lay_out(self.matrix_variable, for_steps=not is_trained)

    def effective_kernel(self):
        """(in, out) tensor that the output is the product with, active adapters included."""
        if not self.active:
            return self.float_matrix()
        return self(ops.eye(self.matrix_shape[0], dtype=self.compute_dtype))

    def _adapt(self, x, y, training):
        show(self, x)
        base = y
        for name, weight in self.active.items():
            adapter = self.adapters.get(name)
            if adapter is None:  # its target is other layers
                continue
            dropped = x
            if name in self.dropouts and training:
                dropped = self.dropouts[name](x, training=True)
            a, b = adapter.factors(y.dtype)
            delta = ops.matmul(ops.matmul(dropped, a) * (weight * adapter.scale), b)
            if adapter.magnitude is not None:
                # As in peft, dropout then reaches what the frozen kernel adds, too.
                of_base = base if dropped is x else ops.matmul(dropped, self.kernel)
                norms = adapter.column_norms(self.matrix_variable, self.compute_dtype)
                factor = adapter.magnitude / norms
                delta = delta * ops.cast(factor, y.dtype)
                delta = delta + of_base * ops.cast(weight * (factor - 1.0), y.dtype)
            y = y + delta
        return y

    # Starts -----------------------------------------------------------------------------------

    def await_residual(self, name):
        """Lets `quantize` give an adapter what it takes from the kernel; see `lora.starts`."""
        self.awaiting = [*self.awaiting, name]

    def start_from_residual(self, name, kernel):
        """Gives an adapter what quantization has taken from the float kernel (in, out)."""
        starts.start_from_residual(self, name, kernel)

    def _quantize(self, mode, config):
        names = [name for name in self.awaiting if name in self.adapters]
        if names and mode not in ("int8", "int4"):
            raise ValueError(
                'Adapters of `init="loftq"` start from int8 and int4 only. Received: '
                f"mode={shown(mode)}, and {shown(names[0])} on {self.path}. Call `remove_adapter` "
                "first."
            )
        kernel = np.array(starts.float_kernel(self)) if names else None
        super()._quantize(mode, config)
        for name in names:
            self.start_from_residual(name, kernel)
        self.awaiting = []

    # Into the kernel and out of it -------------------------------------------------------------

    def merge(self):
        """Adds what the active adapters compute to the kernel; see `lora.merging`."""
        merging.merge(self)

    def unmerge(self):
        """Takes out of the kernel what `merge` added."""
        merging.unmerge(self)

    def merged_kernel(self):
        """(in, out) kernel that does what this one does with its active adapters.

        It is float32 where there are any: it is what `merge` rounds.
        """
        return merging.merged_kernel(self)

    # Keras's own files -------------------------------------------------------------------------

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for key, variable in self._saved_adapters().items():
            store[key] = variable

    def load_own_variables(self, store):
        if self.merged is not None:
            raise ValueError(
                f"The kernel of {self.path} holds merged adapters, which could not be taken out "
                "of another one. Call `unmerge_adapter()` before weights are loaded."
            )
        found = list(store.keys())
        if self._refusal is not None and not found:
            # Keras tries again wherever it meets the layer, and shows the last error.
            raise self._refusal
        keys = {key for key in found if "." in key}
        wanted = self._saved_adapters()
        if keys != set(wanted):
            theirs, ours = (
                shown_names(sorted({key.rpartition(".")[0] for key in some})) or "none"
                for some in (keys, wanted)
            )
            self._refusal = ValueError(
                f"The weights of {self.path} and the file's must have the same adapters. "
                f"Received: a file with the adapters {theirs}, and a model with {ours}. Load "
                "weights without adapters before `enable_lora`, and weights with adapters after "
                "it, with the same arguments; or save and load the adapter on its own."
            )
            raise self._refusal
        self._refusal = None
        super().load_own_variables(store)
        for key, variable in wanted.items():
            variable.assign(store[key])

    def _saved_adapters(self):
        if are_apart() or self.merged is not None:
            return {}
        return {
            f"{name}.{part}": variable
            for name, adapter in self.adapters.items()
            for part, variable in adapter.variables.items()
        }

    # Adapters come and go ---------------------------------------------------------------------

    def add_adapter(self, name, config):
        """Adds an adapter that changes nothing yet and that is not active.

        Args:
            name: string.
            config: `LoRAConfig`.
        """
        if config.use_dora and self.quantization_mode is not None:
            raise ValueError(
                "DoRA needs the lengths of a kernel's columns, and the kernel of "
                f"{self.path} is quantized. Received: use_dora=True. Leave it out."
            )
        before = {id(variable) for variable in self.variables}
        with compat.unlocked(self):
            try:
                self.adapters[name] = self._new_adapter(name, config)
                if config.dropout:
                    self.dropouts[name] = layers.Dropout(config.dropout, dtype=self.dtype_policy)
            except BaseException:
                self.adapters.pop(name, None)
                self.dropouts.pop(name, None)
                for variable in [v for v in self.variables if id(v) not in before]:
                    compat.untrack(self, variable)
                raise

    def _new_adapter(self, name, config):
        rank, scale = config.rank_of(self.path), config.scale_of(self.path)
        ends = (self.input_spec.axes[-1], rank), (rank, self.units)
        starts = (_NORMAL, _NORMAL) if config.triplets else (merging.uniform(), "zeros")
        a, b = (
            self._add(name, part, *rest)
            for part, *rest in zip(("lora_a", "lora_b"), ends, starts, strict=True)
        )
        adapter = Adapter(a, b, None, scale)
        if config.triplets:
            adapter = dataclasses.replace(adapter, e=self._add(name, "lora_e", (rank,), "zeros"))
        if config.init in _TAKEN_OUT_AGAIN:
            parts = zip(("start_a", "start_b"), ends, strict=True)
            frozen = {k: self._add(name, k, shape, "zeros", trainable=False) for k, shape in parts}
            adapter = dataclasses.replace(adapter, **frozen)
        if config.use_dora:
            magnitude = self._add(name, "magnitude", (self.units,), "ones", autocast=False)
            magnitude.assign(adapter.column_norms(self.matrix_variable, self.compute_dtype))
            adapter = dataclasses.replace(adapter, magnitude=magnitude)
        return adapter

    def _add(self, adapter_name, name, shape, initializer, **kwargs):
        with sharding.following(self.matrix_variable):
            return self.add_weight(
                name=f"{adapter_name}_{name}",
                shape=shape,
                initializer=initializer,
                dtype="float32",
                **kwargs,
            )

    def remove_adapter(self, name):
        """Removes an adapter; one that is on other layers only, is none here."""
        if name not in self.adapters:
            return
        with compat.unlocked(self):
            tracked = {id(variable) for variable in self.variables}
            for variable in self.adapters[name].variables.values():
                if id(variable) in tracked:  # else an interrupted call has done it
                    compat.untrack(self, variable)
            self.dropouts.pop(name, None)
            del self.adapters[name]

    def enable_lora(self, *args, **kwargs):
        raise ValueError(_REFUSAL.format(path=self.path))
