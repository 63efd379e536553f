"""`quantize` of a backbone: which layers, and by what. Long by docstrings and messages."""

import contextlib
import re
from typing import Any

import keras

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import cause, shown, shown_names
from keras_t5gemma2.model import calibration
from keras_t5gemma2.model.calibration import exact_updates
from keras_t5gemma2.quantization.layers import Quantizable, QuantizedEmbedding
from keras_t5gemma2.quantization.plans import Plan, is_planned, mode_of, planned
from keras_t5gemma2.quantization.schemes import (
    check_quantized_dtype,
    config_of_name,
    scheme_of,
)
from keras_t5gemma2.typing import LayerFilters, QuantizationMode

_VISION = "vision/"
_CALIBRATED = ("gptq", "awq")


def with_quantize_of_class(model):
    """The model, whose `quantize` is the one of its class.

    Keras puts a check before that of every object, which takes no config in place of a mode, and
    gives "int8" a config of its own.
    """
    vars(model).pop("quantize", None)
    return model


class Quantizes:
    """A backbone whose matrices can be made ones of integers; goes before the class of Keras."""

    def __new__(cls, *args, **kwargs):
        return with_quantize_of_class(super().__new__(cls, *args, **kwargs))

    def quantize(
        self,
        mode: QuantizationMode | None = None,
        config: keras.quantizers.QuantizationConfig | None = None,
        filters: LayerFilters | None = None,
    ) -> None:
        """Makes the matrices of both stacks, and the embedding table, ones of integers.

        Norms and the vision tower stay as they are. What is computed keeps its dtype: a matrix is
        turned into floats where it is used, so that weights take less memory and no call gets
        faster by it. All weights that are integers now are frozen.

        Args:
            mode: "int8", a scale for each column (or token of the table), or "int4", a scale and
                a zero point for each 32 weights of a column; "int4/N" for N of them, "int4/-1" for
                a scale for each column; "q4_0", GGUF's blocks of 32 without zero points, or
                "int4_sym/N", torchao's; "fp8", floats of 8 bits (e4m3) and a scale for each column
                (or token), closer to small weights than "int8" and farther from large ones; or a
                config. After `prepare_qat` by default what was said
                there. Scales are kept in the dtype of the weights, those of "q4_0" rounded to
                float16 before.
            config: a `keras.quantizers` config. `Int8QuantizationConfig()` also rounds the inputs
                of each layer to 8 bits, which is faster where there are products of integers;
                `Int4QuantizationConfig(block_size)` has blocks of another size; `GPTQConfig` and
                `AWQConfig` calibrate the stacks, not the table, on texts, of which the first half
                of each sample is the encoder's and the second the decoder's. Give them more
                tokens than the layers are wide, and groups of 32 weights at least.
            filters: a regular expression, or a list of them, that is searched for in the paths of
                the layers, such as "encoder/layer_0/attention/query"; or a function from a layer
                to a bool. Layers of the vision tower are meant only where the expression matches
                from the beginning of their path, "vision/".

        Raises:
            ValueError: there is no such mode, nothing left that it could quantize, or "int8"
                under float16.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.quantize("int4", filters="mlp")
        >>> backbone.quantize("int8")
        >>> modes = backbone.quantized_layers
        >>> modes["encoder/layer_0/mlp/up"], modes["embedder/table"]
        ('int4/32', 'int8')
        """
        if mode is None and config is None:
            self._quantize_prepared(filters)
            return
        config = config_of(mode, config)
        layers = _chosen(self, config, filters)
        for layer in layers:
            check_quantized_dtype(config.mode, layer.compute_dtype)
        if config.mode in _CALIBRATED:
            self._calibrate(layers, config)
            return
        try:
            for layer in layers:
                layer.quantize(config.mode, config=config)
        except BaseException as error:
            error.add_note(
                "`quantize` has come to some of the layers, and the others are as before: the "
                "model works as it is, and `quantize` called again goes on with the others."
            )
            raise
        finally:
            compat.finish_quantizing(self, config.mode)
            self._forget_functions()

    def prepare_qat(
        self,
        mode: QuantizationMode | None = None,
        config: keras.quantizers.QuantizationConfig | None = None,
        filters: LayerFilters | None = None,
    ) -> None:
        """Rounds matrices from now on to what `quantize` will make of them; see the task's.

        Args:
            mode, config, filters: as `quantize` has them, but for what is calibrated.

        Raises:
            ValueError: there is no such mode, or no layer of floats that is meant.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.prepare_qat("int4", filters="mlp")
        >>> backbone.quantize()
        >>> backbone.quantized_layers["encoder/layer_0/mlp/up"]
        'int4/32'
        """
        config = config_of(mode, config)
        if config.mode in _CALIBRATED or config.activation_quantizer is not None:
            raise ValueError(
                "`prepare_qat` must have a mode that rounds weights alone, and needs no texts. "
                f"Received: mode={shown(mode)}, config={shown(config)}. Give int8 or int4."
            )
        layers = _chosen(self, config, filters)
        for layer in layers:
            check_quantized_dtype(config.mode, layer.compute_dtype)
        for layer in layers:
            layer.prepare(config)
        self._forget_functions()

    def _quantize_prepared(self, filters):
        """Quantizes the layers that `prepare_qat` has prepared, as it said."""
        is_meant = _rule(filters) if filters is not None else lambda layer: True
        layers = [x for x in _layers(self) if x.lattice is not None and is_meant(x)]
        if not layers:
            raise ValueError(
                "`quantize` must have a `mode`, unless `prepare_qat` has been called. Received: "
                f"mode=None, filters={shown(filters)}, and no layer that is prepared and meant"
            )
        modes = {layer.lattice.mode for layer in layers}
        try:
            for layer in layers:
                layer.quantize(layer.lattice.mode, config=layer.lattice)
        finally:
            for mode in modes:
                compat.finish_quantizing(self, mode)
            self._forget_functions()

    def _forget_functions(self):
        for name in ("train_function", "test_function", "predict_function"):
            setattr(self, name, None)

    def _calibrate(self, layers, config):
        """By Keras's own GPTQ or AWQ; if it fails or is interrupted, all layers are as before."""
        if parts := [layer.path for layer in layers if len(compat.all_layers(layer)) > 1]:
            raise ValueError(
                "Layers that are calibrated must have no adapter with dropout. Received: "
                f"{parts[0]}. Call `remove_adapter` first."
            )
        chosen = {id(layer) for layer in layers}

        def is_chosen(layer):
            return id(layer) in chosen

        with contextlib.ExitStack() as stack:
            # Keeps every float matrix until the end; Keras's peak at the start is as high.
            for layer in layers:
                stack.enter_context(layer.as_before_if_it_fails())
            stack.enter_context(exact_updates(config))
            keras.Model.quantize(self, config.mode, config, is_chosen, type_check=False)

    def _check_plan(self, modes):
        """Raises where the model was built otherwise than it should have been.

        Args:
            modes: what its `quantized_layers` must be; if there are none, then, where there is a
                plan, any.
        """
        found = self.quantized_layers
        if unknown := sorted(set(modes or ()) - set(found)):
            raise ValueError(
                "`quantized_layers` must name layers of the model that have a matrix. Received: "
                f"{shown_names(unknown)}"
            )
        if is_planned() and not found:
            raise ValueError(
                "`quantize` must mean at least one layer of the model. Its `filters` match none, "
                f"such as {_layers(self)[0].path}"
            )

    def get_quantization_layer_structure(self, mode: str) -> dict[str, Any] | None:
        """What Keras's calibration runs, one after another."""
        return calibration.layer_structure(self) if mode in _CALIBRATED else None

    @property
    def rounds_activations(self) -> bool:
        """Whether layers of 8 bits round their inputs to 8 bits too.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.quantize(keras.quantizers.Int8QuantizationConfig())
        >>> backbone.rounds_activations
        True
        """
        return any(_rounds(layer) for layer in _layers(self))

    @property
    def quantized_layers(self) -> dict[str, str]:
        """The modes of the layers that are quantized, as "int8" or "int4/32", by their paths.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.quantize("int4", filters="layer_0/attention/query")
        >>> backbone.quantized_layers
        {'encoder/layer_0/attention/query': 'int4/32', 'decoder/layer_0/attention/query': 'int4/32'}
        """
        return {layer.path: mode_of(layer) for layer in _layers(self) if layer.quantization_mode}


def config_of(mode, config=None):
    """The `keras.quantizers.QuantizationConfig` that arguments of `quantize` mean."""
    quantizers = keras.quantizers
    if isinstance(mode, quantizers.QuantizationConfig):
        mode, config = None, mode
    if config is None and (found := config_of_name(mode)) is not None:
        return found
    modes = ("int8", "int4", *_CALIBRATED)
    is_config = isinstance(config, quantizers.QuantizationConfig) and config.mode in modes
    if not is_config or mode not in (None, config.mode):
        raise ValueError(
            '`mode` must be "int8", "int4", "int4/N" or "int4_sym/N" with N weights in a block, '
            '"q4_0", "fp8", or a config of `keras.quantizers` for int8, int4, '
            f"gptq or awq must be given. Received: mode={shown(mode)}, config={shown(config)}"
        )
    if config.mode not in _CALIBRATED:
        scheme_of(config)
    return config


def load_quantized(load, load_weights, quantize):
    """The backbone that `load()` gives, quantized as its weights are read.

    Args:
        load: function without arguments that builds and fills a backbone.
        load_weights: bool. Whether it reads weights; random ones are quantized afterwards.
        quantize: as `_plan_of` has it, or `None` to leave the weights as they are.
    """
    plan = None if quantize is None else _plan_of(quantize)
    if plan is None or load_weights:
        with planned(plan):
            return load()
    backbone = load()
    backbone.quantize(**(quantize if isinstance(quantize, dict) else {"mode": quantize}))
    return backbone


def _plan_of(quantize):
    """The `Plan` by which a model of floats is quantized while it is loaded.

    Args:
        quantize: mode or config as `Quantizes.quantize` has it, or a dict of its arguments.

    Raises:
        ValueError: it is none of these, or a config that needs to calibrate.
    """
    arguments = quantize if isinstance(quantize, dict) else {"mode": quantize}
    if unknown := set(arguments) - {"mode", "config", "filters"}:
        raise ValueError(
            "`quantize` must be a mode, a config, or a dict of `mode`, `config` and `filters`. "
            f"Received: {shown_names(unknown)}"
        )
    config = config_of(arguments.get("mode"), arguments.get("config"))
    if config.mode in _CALIBRATED:
        raise ValueError(
            "`quantize` while a model is loaded must be int8 or int4: there is no model yet to "
            f"calibrate. Received: {shown(config.mode)}. Call `quantize` of the loaded model."
        )
    if config.mode == "int4" and scheme_of(config).kind:
        raise ValueError(
            "`quantize` while a model is loaded must be int8 or int4 as Keras has it. Received: "
            f"{shown(arguments.get('mode'))}. Call `quantize` of the loaded model."
        )
    is_meant = _rule(arguments.get("filters"))
    scheme = scheme_of(config)
    block = (scheme.kind or "int8") if config.mode == "int8" else f"int4/{scheme.block or -1}"
    return Plan(lambda layer: block if is_meant(layer) else None, config.activation_quantizer)


def _chosen(backbone, config, filters):
    """The layers to be quantized, of which there is at least one."""
    is_meant = _rule(filters)
    layers = [layer for layer in _layers(backbone) if is_meant(layer)]
    if config.mode in _CALIBRATED:
        layers = [layer for layer in layers if not _is_beside_stacks(layer)]
    left = [layer for layer in layers if not layer.quantization_mode]
    if not left:
        some = _layers(backbone)[0].path if not layers else layers[0].path
        found = (
            f"which matches none, such as {some}"
            if not layers
            else (f"and {some}, which is {layers[0].quantization_mode} already, as are all others")
        )
        raise ValueError(
            "There must be a layer to quantize, whose matrix is one of floats. Received: "
            f"filters={shown(filters)}, {found}. With GPTQ and AWQ only layers of the stacks count."
        )
    if config.mode == "int8":
        rounds = config.activation_quantizer is not None
        others = [x for x in _layers(backbone) if x.quantization_mode == "int8"]
        if others and rounds != _rounds(others[0]):
            raise ValueError(
                "All layers of 8 bits must round their inputs, or none. Received: "
                f"config.activation_quantizer={shown(config.activation_quantizer)}, and "
                f"{others[0].path}, "
                f"quantized before, which does {'' if _rounds(others[0]) else 'not '}round them."
            )
    return left


def _rule(filters):
    """Whether a layer, by its path, is one that `filters` mean."""
    if callable(filters):
        return filters
    if filters is None:
        return lambda layer: not layer.path.startswith(_VISION)
    patterns = [filters] if isinstance(filters, str) else filters
    try:
        patterns = [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise ValueError(
            "`filters` must be a regular expression, a list of them, or a function of a layer. "
            f"Received: filters={shown(filters)} ({cause(error)})"
        ) from error

    def is_meant(layer):
        find = "match" if layer.path.startswith(_VISION) else "search"
        return any(getattr(pattern, find)(layer.path) for pattern in patterns)

    return is_meant


def _layers(backbone):
    return [layer for layer in compat.all_layers(backbone) if isinstance(layer, Quantizable)]


def _is_beside_stacks(layer):
    return isinstance(layer, QuantizedEmbedding) or layer.path.startswith(_VISION)


def _rounds(layer):
    is_int8 = layer.quantization_mode == "int8"
    return is_int8 and layer.inputs_quantizer is not None
