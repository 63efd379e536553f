"""Layers whose matrix may be of integers, computed in less memory. Long: two layers, one base.

Their variables are Keras's own. Keras itself unpacks and scales a whole matrix by several arrays
of its size, and a whole table for each token that is looked up. Here nothing is larger than one
matrix, or than a piece of the table, in the dtype of the computation.
"""

import contextlib

import keras
import numpy as np
from keras import layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.kernels.export import onnx_nodes
from keras_t5gemma2.kernels.runtime.host_memory import host_array
from keras_t5gemma2.layer_config import registered
from keras_t5gemma2.quantization import plans
from keras_t5gemma2.quantization.codes import FP8, Scheme, quantized
from keras_t5gemma2.quantization.dequantize import of_blocks, of_bytes, times_dequantized, unpacked
from keras_t5gemma2.quantization.lattices import rounded
from keras_t5gemma2.quantization.packing import Packed
from keras_t5gemma2.quantization.schemes import check_quantized_dtype, scheme_of
from keras_t5gemma2.sharding import layouts as sharding

# Of the table, in the dtype of the computation.
_BYTES_AT_A_TIME = 64 << 20
_CALIBRATED = ("gptq", "awq")


class Quantizable:
    """A layer with one matrix, in floats or in integers; goes before the class of Keras.

    Attributes:
        matrix: the name of the matrix.
        axis: 0 or -1. Along which of its axes numbers share a scale.
    """

    matrix, axis = "kernel", 0

    stores_floats = False  # whether codes of 8 bits are floats, which Keras takes for integers

    def build(self, input_shape=None):
        self.packed = Packed()
        self.lattice = None  # the config that the matrix is rounded by while it is trained
        if (mode := plans.planned_mode(self)) is not None:
            self.stores_floats = mode == FP8
            mode = "int8" if self.stores_floats else mode
            check_quantized_dtype(mode, self.compute_dtype)
            self.dtype_policy = f"{mode}_from_{self.dtype_policy.name}"
        super().build(input_shape)

    def quantize(self, mode=None, type_check=True, config=None):
        """As Keras has it, but from the numbers in float32, whatever the dtype of the matrix.

        If it fails or is interrupted, the layer is as before.
        """
        with self.as_before_if_it_fails():
            self._quantize(mode, config)

    def _quantize(self, mode, config):
        variable = self.matrix_variable
        if mode not in ("int8", "int4"):
            with sharding.following(variable):
                # Subclasses are refused there, which may compute otherwise; ours add to it only.
                super().quantize(mode, type_check=False, config=config)
            return
        scheme, shape = scheme_of(config), self.matrix_shape
        found = quantized(host_array(variable.value), scheme, self.axis % 2, variable.dtype)
        compat.remove_matrix(self, self.matrix)
        with sharding.following(variable):
            self.quantized_build(shape, mode, config)
        policy = mode if mode == "int8" else f"int4/{scheme.block or -1}"
        self.dtype_policy = f"{policy}_from_{self.dtype_policy.name}"
        self.stores_floats = scheme.kind == FP8
        self.assign_codes(found)
        self.lattice = None

    @contextlib.contextmanager
    def as_before_if_it_fails(self):
        """Restores the matrix and its variables if the block raises."""
        attributes, variables = dict(vars(self)), compat.own_variables(self)
        try:
            yield
        except BaseException:
            for variable in compat.own_variables(self):
                compat.untrack(self, variable)
            for name in set(vars(self)) - set(attributes):
                del vars(self)[name]
            vars(self).update(attributes)
            compat.track_again(self, variables)
            raise

    def quantized_build(self, shape, mode, config=None):
        super().quantized_build(shape, mode, config)
        # Without a config the layer is built to be loaded, and nothing in it says so.
        if mode == "int8" and config is None:
            is_rounded = plans.rounds_activations()
            self.inputs_quantizer = keras.quantizers.AbsMaxQuantizer(-1) if is_rounded else None

    @property
    def matrix_variable(self):
        """The variable of the matrix, or of its codes; `None` after GPTQ and AWQ."""
        return compat.matrix(self, self.matrix)

    @property
    def matrix_shape(self):
        """(rows, columns) of the matrix in floats."""
        raise NotImplementedError

    @property
    def scheme(self):
        """The `Scheme` of a layer of 8 or 4 bits."""
        if self.quantization_mode == "int8":
            return Scheme(8, None, FP8 if self.stores_floats else "")
        block = compat.int4_block_size(self)
        return Scheme(4, None if block in (None, -1) else block)

    @property
    def code_variables(self):
        """The variables of a layer of 8 or 4 bits, in the order of `Codes`."""
        names = [f"{self.matrix}_scale", f"{self.matrix}_zero"]
        factors = [getattr(self, name) for name in (names if self.scheme.block else names[:1])]
        return [self.matrix_variable, *factors]

    def assign_codes(self, codes):
        """Gives a layer of 8 or 4 bits the values of `Codes`."""
        for variable, values in zip(self.code_variables, codes, strict=False):
            variable.assign(values)

    def codes_of(self, matrix, **kwargs):
        """The `Codes` that a layer of 8 or 4 bits has for a float matrix; see `quantized`."""
        dtype = self.code_variables[1].dtype
        return quantized(matrix, self.scheme, self.axis % 2, dtype, **kwargs)

    @property
    def quantized_variables(self):
        """All variables in place of the matrix of a layer of 8 or 4 bits, the codes first."""
        found = self.code_variables
        return [*found, self.g_idx] if self.scheme.block else found

    @property
    def stored_variables(self):
        """All variables in place of the matrix, of a layer of any kind of integers."""
        return self.quantized_variables

    def quantized_values(self, matrix, **kwargs):
        """An array for each of `quantized_variables`, made of a float matrix."""
        codes, scale, zero = self.codes_of(matrix, **kwargs)
        if zero is None:
            return [codes, scale]
        length = self.matrix_shape[self.axis]
        return [codes, scale, zero, np.arange(length, dtype="float32") // self.scheme.block]

    def float_matrix(self):
        """The matrix as it is computed with, in the dtype of the computation."""
        if not self.has_integers:
            return ops.cast(self.rounded_matrix(), self.compute_dtype)
        return self._dequantized(self._stored())

    def prepare(self, config):
        """Rounds the matrix from now on to what `quantize` with this config makes of it."""
        self.lattice = config

    def rounded_matrix(self):
        """The matrix of floats as products read it: the variable, or what it is rounded to."""
        if self.lattice is None:
            return self.matrix_variable
        return self._rounded(compat.uncast(self.matrix_variable))

    def _rounded(self, matrix):
        # Of the tensor: inside of a call a variable says that it is of the dtype it is cast to.
        scheme, stored = scheme_of(self.lattice), keras.backend.standardize_dtype(matrix.dtype)
        return rounded(matrix, scheme, self.axis, stored, self.compute_dtype)

    @property
    def has_integers(self):
        """Whether the matrix is one of integers already."""
        return self.quantization_mode is not None

    def _stored(self):
        return [ops.convert_to_tensor(variable) for variable in self.code_variables]

    def _dequantized(self, stored):
        """The matrix of codes, scales and zero points, or the rows that they are of."""
        codes, scale, *zero = stored
        if self.scheme.bits == 4:
            codes = unpacked(codes, self.matrix_shape[1])
        if self.stores_floats:
            codes = of_bytes(codes, self.compute_dtype)
        codes, scale, *zero = (ops.cast(x, self.compute_dtype) for x in (codes, scale, *zero))
        if zero:
            return of_blocks(codes, scale, *zero, self.axis, self.scheme.block)
        return codes / (scale if self.axis == 0 else ops.expand_dims(scale, -1))

    def _product(self, x, stored):
        """`x` times the matrix, as the layer has it, or times rows of a table."""
        if (node := onnx_nodes.node_of(self)) is not None:
            return onnx_nodes.product(x, node)
        if (packed := self._packed(x, stored)) is not None:
            return kernels.times_blocks(x, packed)
        return self._plain_product(x, stored)

    def _plain_product(self, x, stored):
        if self.quantization_mode != "int8" or self.stores_floats:
            return times_dequantized(
                x, stored, lambda stored: self._oriented(self._dequantized(stored))
            )
        codes, scale = stored  # the sums are scaled, of which there are fewer
        if kernels.reads_codes(x):
            times = kernels.times_codes if self.axis else kernels.product_of_codes
            sums = times(x, codes)
            return sums / ops.cast(scale, sums.dtype)

        def dequantized(stored):
            return self._oriented(ops.cast(stored[0], x.dtype))

        return times_dequantized(x, [codes], dequantized) / ops.cast(scale, x.dtype)

    def _packed(self, x, stored):
        """The codes as a product with `x` reads them best, or `None`."""
        if self.quantization_mode != "int4" or not kernels.packs_blocks(x):
            return None
        return self.packed.of(self, stored)

    def _oriented(self, matrix):
        """The matrix as it is on the right of a product."""
        return matrix


@registered
class QuantizedDense(Quantizable, layers.Dense):
    """A dense layer whose kernel may be of integers, of any of the kinds that Keras knows."""

    @property
    def matrix_shape(self):
        return self.input_spec.axes[-1], self.units

    @property
    def has_integers(self):
        mode = self.quantization_mode
        return mode is not None and getattr(self, f"is_{mode}_calibrated", True)

    def build(self, input_shape=None):
        super().build(input_shape)
        if self.quantization_mode in _CALIBRATED:  # what a file holds is calibrated
            setattr(self, f"is_{self.quantization_mode}_calibrated", True)

    def call(self, inputs, training=None):
        if self.lattice is None:
            return super().call(inputs, training=training)
        y = ops.matmul(inputs, self.rounded_matrix())
        y = y if self.bias is None else y + self.bias
        return y if self.activation is None else self.activation(y)

    def quantized_call(self, inputs, training=None):
        mode = self.quantization_mode
        if mode == "float8" or (mode == "int8" and self.inputs_quantizer):
            return super().quantized_call(inputs, training=training)
        # Keras's calibration watches `call`.
        return self._integer_call(inputs) if self.has_integers else self.call(inputs)

    def _integer_call(self, inputs):
        y = self._product(inputs, self._stored())
        y = y if self.bias is None else y + self.bias
        return y if self.activation is None else self.activation(y)

    def _stored(self):
        if self.quantization_mode not in _CALIBRATED:
            return super()._stored()
        return [ops.convert_to_tensor(variable) for variable in self._calibrated_variables()]

    def _calibrated_variables(self):
        factors = [self.awq_scales] if self.quantization_mode == "awq" else []
        found = [self.quantized_kernel, self.kernel_scale, self.kernel_zero]
        return [*found, *factors, self.g_idx]

    @property
    def stored_variables(self):
        if self.quantization_mode in _CALIBRATED:
            return self._calibrated_variables()
        return super().stored_variables

    def save_own_variables(self, store):
        """Of a calibrated layer, also the zero points, which Keras forgets but reads."""
        if self.quantization_mode not in _CALIBRATED:
            super().save_own_variables(store)
            return
        bias = [] if self.bias is None else [self.bias]
        for i, variable in enumerate([*bias, *self._calibrated_variables()]):
            store[str(i)] = variable

    def _dequantized(self, stored):
        if self.quantization_mode not in _CALIBRATED:
            return super()._dequantized(stored)
        codes, scale, zero, *factors, group = stored  # (out, in), (out, G), (out, G), ..., (in,)
        if codes.shape[0] != self.units:
            codes = keras.quantizers.unpack_int4(codes, self.units, axis=0, dtype="uint8")
        codes, scale, zero = (ops.cast(x, self.compute_dtype) for x in (codes, scale, zero))
        group = ops.cast(group, "int32")
        matrix = (codes - ops.take(zero, group, axis=1)) * ops.take(scale, group, axis=1)
        for factor in factors:
            matrix = matrix / ops.cast(factor, matrix.dtype)
        return ops.transpose(matrix)


@registered
class QuantizedEmbedding(Quantizable, layers.ReversibleEmbedding):
    """An embedding table, also of logits, whose rows may be of integers."""

    matrix, axis = "embeddings", -1

    @property
    def matrix_shape(self):
        return self.input_dim, self.output_dim

    @property
    def is_plain(self):
        """Whether logits are products with floats, and nothing else."""
        is_float = self.quantization_mode is None and self.lattice is None
        return is_float and self.logit_soft_cap is None

    def call(self, inputs, reverse=False):
        if not reverse:
            inputs = ops.cast(inputs, "int32")
            if self.lattice is not None:
                return self._rounded(ops.take(compat.uncast(self.matrix_variable), inputs, axis=0))
            rows = kernels.take_rows(self.matrix_variable, inputs)
            return ops.cast(rows, self.compute_dtype)
        return self._capped(kernels.logits(inputs, self.rounded_matrix()))

    def compute_output_spec(self, inputs, reverse=False):
        spec = super().compute_output_spec(inputs, reverse)
        return keras.KerasTensor(spec.shape, dtype="float32") if reverse else spec

    def quantized_call(self, inputs, reverse=False):
        if self.quantization_mode == "int8" and reverse and self.inputs_quantizer:
            return ops.cast(super().quantized_call(inputs, reverse=reverse), "float32")
        return self._integer_call(inputs, reverse)

    def _integer_call(self, inputs, reverse):
        if (node := onnx_nodes.node_of(self)) is not None:
            if not reverse:
                return onnx_nodes.rows(inputs, node)
            return self._capped(onnx_nodes.product(inputs, node))
        stored = self._stored()
        if not reverse:
            inputs = ops.cast(inputs, "int32")
            return self._dequantized([ops.take(x, inputs, axis=0) for x in stored])
        if (packed := self._packed(inputs, stored)) is not None:
            return self._capped(kernels.times_blocks(inputs, packed))
        is_whole = self.quantization_mode == "int8" and not self.stores_floats
        if is_whole and kernels.reads_codes(inputs):
            return self._capped(self._plain_product(inputs, stored))
        size = max(1, _BYTES_AT_A_TIME // (self.output_dim * np.dtype(self.compute_dtype).itemsize))
        pieces = [
            self._plain_product(inputs, [x[start : start + size] for x in stored])
            for start in range(0, self.input_dim, size)
        ]
        return self._capped(ops.concatenate(pieces, axis=-1))

    def logits_of(self, inputs, ids):
        """(..., k) float32 logits of the k tokens `ids` alone, those that `reverse=True` gives."""
        if self.quantization_mode == "int8" and self.inputs_quantizer:
            return ops.take(self(inputs, reverse=True), ids, axis=-1)
        if self.has_integers:
            rows = self._dequantized([ops.take(x, ids, axis=0) for x in self._stored()])
        elif self.lattice is None:
            rows = ops.take(self.matrix_variable, ids, axis=0)
        else:
            rows = self._rounded(ops.take(compat.uncast(self.matrix_variable), ids, axis=0))
        return self._capped(kernels.logits(inputs, rows))

    def _capped(self, logits):
        cap, logits = self.logit_soft_cap, ops.cast(logits, "float32")
        return logits if cap is None else ops.tanh(logits / cap) * cap

    def _oriented(self, matrix):
        return ops.transpose(matrix)
