"""What a task can do with low-rank adapters: add, train, switch and merge them."""

import contextlib
import dataclasses
import itertools
import types

import keras

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.lora import targets
from keras_t5gemma2.lora.config import LoRAConfig, check_adapter_name
from keras_t5gemma2.messages import say, shown, shown_names
from keras_t5gemma2.training.default_optimizer import default_optimizer

_NOTHING = types.MappingProxyType({})
# Choices of adapters whose compiled functions are kept.
_MAX_PROGRAMS = 8


class HasAdapters:
    """A task whose text stacks take adapters; the base of one that has a `backbone`."""

    # What a task without adapters has; `keras.Model` tracks what is set on an instance.
    _adapter_configs = _NOTHING  # `LoRAConfig` by name
    _adapter_weights = _NOTHING  # from the names of the active adapters to their weights
    _trained_adapter = None  # the name of the adapter that `fit` trains
    _optimized_adapter = None  # the name of the one that the optimizer was last made for
    _has_default_optimizer = False  # whether the user has compiled with none of their own
    _is_merged = False
    _programs = _NOTHING  # compiled functions of choices of adapters that are not the present one

    @property
    def adapters(self):
        """Dict of the adapters' configurations, plain JSON each, by name."""
        return {name: config.to_dict() for name, config in self._adapter_configs.items()}

    @property
    def active_adapter(self):
        """The name of the one active adapter, a dict of weights of a sum of several, or `None`."""
        if self._trained_adapter is not None:
            return self._trained_adapter
        return dict(self._adapter_weights) or None

    def enable_lora(
        self,
        rank,
        alpha=None,
        dropout=0.0,
        target="text",
        use_rslora=False,
        use_dora=False,
        name="default",
    ):
        """Adds an adapter, makes it the active one, and freezes all other weights.

        From then on `fit` trains the adapter alone: y = x W + scale * (drop(x) A) B on each
        layer of `target`, which starts as y = x W. Norms, the embedding table, the end-of-image
        vector and the vision tower are frozen. The optimizer starts anew: the one of `compile`,
        or, where none was named there, AdamW with a rate for adapters, which is logged.

        Args:
            rank: int. Columns of A and rows of B, 4 to 64 say.
            alpha: float. The scale is alpha / rank. By default `rank`, so that the scale is 1.
            dropout: float. Of the adapter's input, in training.
            target: "text" for the projections (query, key, value, output, gate, up, down) of
                every layer of encoder and decoder; a list of some of these names, or of whole
                paths; or a regular expression that the whole path of a layer must match, such
                as `"decoder/.*/(query|value)"`. Never the vision tower or the embedding table.
            use_rslora: bool. Whether the scale is alpha / sqrt(rank), for high ranks.
            use_dora: bool. Whether the lengths of the columns of W + scale * A B are trained
                on their own.
            name: string. Of the adapter, where there are several.

        Raises:
            ValueError: there is such an adapter, the adapters are merged, or `target` means no
                layer or one that takes no adapter.

        Example:

        >>> from keras_t5gemma2 import (
        ...     AttentionConfig, BackboneConfig, StackConfig, T5Gemma2Backbone, T5Gemma2Seq2SeqLM
        ... )
        >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
        >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local,))
        >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
        >>> lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config))
        >>> lm.enable_lora(rank=2, target=["query"])
        >>> sorted(variable.path for variable in lm.trainable_variables)[0]
        'decoder/layer_0/attention/query/default_lora_a'
        """
        config = LoRAConfig(rank, alpha, dropout, target, use_rslora, use_dora)
        with self._as_before_if_it_fails():
            self._add_adapter(name, config)
            self.set_adapter(name)

    def set_adapter(self, adapter):
        """Chooses the adapter that computes and trains.

        The optimizer starts anew where another adapter is to be trained.

        Args:
            adapter: name of the one adapter; `None` for the base model; or a dict from names to
                weights: the outputs of each layer then are those of the base plus the weighted
                sum of what each adapter adds, and none is trained.
        """
        weights = _weights(adapter)
        self._check_not_merged("another adapter is chosen")
        self._check_known(weights)
        with self._as_before_if_it_fails():
            self._activate(adapter if isinstance(adapter, str) else None, weights)
            self._renew_optimizer()

    def _activate(self, trained, weights):
        with self._switching_programs():
            self._trained_adapter, self._adapter_weights = trained, weights
        for layer in self._dense_layers().values():
            layer.active = dict(weights)
            for name, own in layer.adapters.items():
                for variable in own.variables.values():
                    variable.trainable = name == trained

    @contextlib.contextmanager
    def _as_before_if_it_fails(self):
        """Takes back what the block adds and activates if it fails or is interrupted."""
        of_adapters = self._trained_adapter, self._adapter_weights
        names = ("_adapter_configs", "_optimized_adapter", "_unfrozen", "optimizer")
        before = {name: getattr(self, name) for name in names if hasattr(self, name)}
        trainable = [(variable, variable.trainable) for variable in self.variables]
        try:
            yield
        except BaseException:
            for layer in self._dense_layers().values():
                for name in set(layer.adapters) - set(before["_adapter_configs"]):
                    layer.remove_adapter(name)
            for name, value in before.items():
                setattr(self, name, value)
            self._activate(*of_adapters)
            for variable, was_trainable in trainable:
                variable.trainable = was_trainable
            self._track_anew()
            raise

    def remove_adapter(self, name):
        """Removes an adapter. With the last one goes all that `enable_lora` did.

        Args:
            name: string.
        """
        self._check_not_merged("an adapter is removed")
        self._check_known([name])
        _all_the_same(self._remove, name)

    def _remove(self, name):
        if name in self._adapter_weights:
            self.set_adapter(None)
        for layer in self._dense_layers().values():
            layer.remove_adapter(name)
        self._adapter_configs = {n: c for n, c in self._adapter_configs.items() if n != name}
        if self._optimized_adapter == name:
            self._optimized_adapter = None
        if not self._adapter_configs:
            self._unfreeze()
        self._track_anew()

    # Into the base weights and out of them ----------------------------------------------------

    def merge_adapter(self):
        """Puts the active adapter, or the weighted sum, into the base weights.

        The outputs stay the same to rounding, and take no longer than those of the base. The
        adapters are kept, but are neither trained nor switched until `unmerge_adapter`; what is
        saved meanwhile is a model without adapters.

        Weights of a quantized model are turned into floats, merged, and quantized again, with new
        scales. That is a coarser rounding: of 4 bits, much of what a weak adapter adds can get
        lost, so evaluate the merged model, or leave the adapters beside. The integers of before
        are kept for `unmerge_adapter`.

        Raises:
            ValueError: there is no active adapter, the adapters are merged already, or weights
                are those of GPTQ or AWQ, which only a calibration can make.
        """
        self._check_not_merged("adapters are merged again")
        if not self._adapter_weights:
            raise ValueError("There must be an active adapter to merge. Call `set_adapter` first.")
        self._change_kernels(self._merge_into, self._unmerge_from, True)

    def unmerge_adapter(self):
        """Takes the adapters out of the base weights, which are as before to rounding."""
        if not self._is_merged:
            raise ValueError("There is nothing to unmerge: call `merge_adapter` first.")
        self._change_kernels(self._unmerge_from, self._merge_into, False)

    def _change_kernels(self, change, undo, is_merged):
        """Changes the kernels of all layers, or of none if it fails or is interrupted."""
        layers = self._dense_layers().values()
        try:
            for layer in layers:
                change(layer)
            with self._switching_programs():
                self._is_merged = is_merged
        except BaseException:
            for layer in layers:
                undo(layer)
            self._is_merged = not is_merged
            self._forget_programs()
            raise

    def _merge_into(self, layer):
        layer.active = dict(self._adapter_weights)
        layer.merge()
        layer.active = {}

    def _unmerge_from(self, layer):
        layer.unmerge()
        layer.active = dict(self._adapter_weights)

    def keep_merged(self):
        """Makes adapters that are merged a part of the base weights for good, and forgets them."""
        if self._is_merged:
            _all_the_same(self._keep_merged)

    def _keep_merged(self):
        names = list(self._adapter_configs)
        for layer in self._dense_layers().values():
            layer.merged = None
            for name in names:
                layer.remove_adapter(name)
        self._is_merged, self._adapter_configs = False, {}
        self._trained_adapter, self._adapter_weights = None, {}
        self._optimized_adapter = None
        self._unfreeze()
        self._track_anew()

    # Training ---------------------------------------------------------------------------------

    def make_train_function(self, force=False):
        if self._is_merged:
            raise ValueError(
                "An adapter that is merged into the base weights cannot be trained. Call "
                "`unmerge_adapter()` first."
            )
        if self._adapter_configs and self._trained_adapter is None:
            raise ValueError(
                "One adapter must be active to be trained. Received: active_adapter="
                f"{self.active_adapter}. Call `set_adapter` with the name of one of "
                f"{shown_names(self._adapter_configs)}, or `remove_adapter` to train the base."
            )
        return super().make_train_function(force)

    def _renew_optimizer(self):
        """A new optimizer where the old one has the state of other variables."""
        if self._trained_adapter in (None, self._optimized_adapter):
            return
        self._optimized_adapter = self._trained_adapter
        self._reset_optimizer()

    def _reset_optimizer(self):
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None:
            return
        if self._has_default_optimizer:
            new = self._default_optimizer()
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                new = keras.optimizers.LossScaleOptimizer(new, name=optimizer.name)
            self.optimizer = new
        elif optimizer.built:
            self.optimizer = type(optimizer).from_config(optimizer.get_config())

    def _default_optimizer(self):
        of_adapters = self._trained_adapter is not None
        optimizer = default_optimizer(self.backbone.config.decoder.hidden_dim, of_adapters)
        if of_adapters:
            say(
                f"The adapter {self._trained_adapter!r} trains with AdamW and a learning rate of "
                f"{float(optimizer.learning_rate):.2g}, unless `compile` names an optimizer."
            )
        return optimizer

    # Compiled functions -----------------------------------------------------------------------

    def compile(self, *args, **kwargs):
        self._programs = {}
        super().compile(*args, **kwargs)

    @contextlib.contextmanager
    def _switching_programs(self):
        """Compiled functions hold what was active when they were traced.

        Those of what was active before are kept, so that going back to it compiles nothing.
        """
        self._programs[self._programs_key()] = [
            getattr(model, name, None) for model, name in self._programs_here()
        ]
        yield
        while len(self._programs) > _MAX_PROGRAMS:
            self._programs.pop(next(iter(self._programs)))
        kept = self._programs.get(self._programs_key(), itertools.repeat(None))
        for (model, name), program in zip(self._programs_here(), kept, strict=False):
            setattr(model, name, program)
        self.train_function = None

    def _programs_key(self):
        weights = tuple(sorted(self._adapter_weights.items()))
        return weights, self._trained_adapter, self._is_merged

    def _programs_here(self):
        names = ("test_function", "predict_function")
        pairs = [(model, name) for model in (self, self.backbone) for name in names]
        return [*pairs, (self.generator, "programs")]

    def _forget_programs(self):
        self._programs = {}
        for model, name in [*self._programs_here(), (self, "train_function")]:
            setattr(model, name, None)

    # The layers -------------------------------------------------------------------------------

    def _dense_layers(self):
        return targets.dense_layers(self.backbone)

    def _add_adapter(self, name, config):
        check_adapter_name(name)
        self._check_not_merged("an adapter is added")
        if name in self._adapter_configs:
            raise ValueError(
                f"There is an adapter {shown(name)} already. Received: name={shown(name)}. Give "
                "another "
                "name, or call `remove_adapter` first."
            )
        paths = targets.resolve(config.target, self.backbone)
        if isinstance(config.target, str):  # an expression is run here, and goes into no file
            target = targets.describe(paths, self.backbone)
            config = dataclasses.replace(config, target=target)
        if not self._adapter_configs:
            self._freeze()
        for path, layer in self._dense_layers().items():
            if path in paths:
                layer.add_adapter(name, config)
        self._adapter_configs = {**self._adapter_configs, name: config}
        self._track_anew()

    def _freeze(self):
        # By path: Keras would track variables in an attribute as the task's own.
        self._unfrozen = sorted(variable.path for variable in self.trainable_variables)
        for variable in self.trainable_variables:
            variable.trainable = False

    def _unfreeze(self):
        unfrozen = set(self._unfrozen)
        for variable in self.variables:
            # What has been quantized since then stays frozen.
            if variable.path in unfrozen and keras.backend.is_float_dtype(variable.dtype):
                variable.trainable = True
        self._reset_optimizer()

    def _track_anew(self):
        """To be called when variables have come or gone.

        On torch every layer, up to the task, keeps the parameters of all those inside it.
        """
        compat.register_all_parameters(self)
        self._forget_programs()

    def _check_known(self, names):
        if unknown := [name for name in names if name not in self._adapter_configs]:
            known = shown_names(self._adapter_configs) or "none: call `enable_lora` first"
            raise ValueError(f"There is no adapter {shown(unknown[0])}. The adapters are: {known}.")

    def _check_not_merged(self, what):
        if self._is_merged:
            raise ValueError(
                "The adapters are merged into the base weights. Call `unmerge_adapter()` before "
                f"{what}."
            )


def _all_the_same(change, *args):
    """Calls what can only go forward; if it is interrupted, once more from its beginning."""
    try:
        change(*args)
    except BaseException:
        change(*args)
        raise


def _weights(adapter):
    if adapter is None:
        return {}
    if isinstance(adapter, str):
        return {adapter: 1.0}
    return {name: float(weight) for name, weight in adapter.items()}
