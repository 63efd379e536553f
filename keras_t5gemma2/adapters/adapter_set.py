"""The adapters of a backbone: which there are, compute, and are trained. Long by hooks."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.lora import targets
from keras_t5gemma2.lora.config import check_adapter_name
from keras_t5gemma2.messages import shown, shown_names


class AdapterSet:
    """Adapters on the dense layers of a backbone's two stacks.

    It changes these layers and what is frozen. A task has a `TaskAdapters`, which also keeps its
    optimizer and its compiled functions in step.

    Args:
        backbone: `T5Gemma2Backbone`.

    Example:

    >>> import keras_t5gemma2
    >>> from keras_t5gemma2.lora.config import LoRAConfig
    >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
    >>> adapters = AdapterSet(backbone)
    >>> adapters.add("french", LoRAConfig(rank=2, target=["query"]))
    >>> adapters.choose("french")
    >>> adapters.active
    'french'
    """

    def __init__(self, backbone):
        self.backbone = backbone
        self.configs = {}  # `LoRAConfig` by name
        self.weights = {}  # from the names of the active adapters to their weights
        self.trained = None  # the name of the adapter that `fit` trains
        self.is_merged = False
        self.allocator = None  # the `RankAllocator` of `AdaptiveRank`, while it works
        self.shortened = None  # the `Shortened` of `ReLoRA`, while it works
        self.kept_ranks = {}  # by name, the `KeepMasked` of adapters whose ranks are settled
        self._unfrozen = []  # paths of what was trained before there were adapters

    @property
    def model(self):
        """The model whose other variables are frozen: the backbone, or all of a task."""
        return self.backbone

    @property
    def active(self):
        """The name of the one active adapter, a dict of weights of a sum of several, or `None`."""
        return self.trained if self.trained is not None else dict(self.weights) or None

    def described(self):
        """Dict of the adapters' configurations, plain JSON each, by name."""
        return {name: config.to_dict() for name, config in self.configs.items()}

    def layers(self):
        """Dict of the layers that may have adapters, by path."""
        return targets.dense_layers(self.backbone)

    # Which there are, and which computes ------------------------------------------------------

    def add(self, name, config):
        """Adds an adapter that changes nothing yet and is not active.

        Args:
            name: string.
            config: `LoRAConfig`.

        Raises:
            ValueError: there is such an adapter, the adapters are merged, or the target means no
                layer or one that takes no adapter.
        """
        check_adapter_name(name)
        self.check_not_merged("an adapter is added")
        if name in self.configs:
            raise ValueError(
                f"There is an adapter {shown(name)} already. Received: name={shown(name)}. Give "
                "another name, or call `remove_adapter` first."
            )
        config, paths = targets.resolve_config(config, self.backbone)
        if not self.configs:
            self._freeze()
        for path, layer in self.layers().items():
            if path in paths:
                layer.add_adapter(name, config)
        self.configs = {**self.configs, name: config}
        self.variables_changed()

    def choose(self, adapter):
        """Makes an adapter, a weighted sum of several, or none the active one.

        Args:
            adapter: name of the adapter that computes and trains; `None`; or a dict from names to
                weights, of which none is trained.
        """
        weights = _weights(adapter)
        self.check_not_merged("another adapter is chosen")
        self.check_known(weights)
        with self.as_before_if_it_fails():
            self._activate(adapter if isinstance(adapter, str) else None, weights)
            self.trained_changed()

    def _activate(self, trained, weights):
        with self.switching():
            self.trained, self.weights = trained, weights
        for layer in self.layers().values():
            layer.active = dict(weights)
            for name, own in layer.adapters.items():
                for variable in own.trained.values():
                    variable.trainable = name == trained

    def remove(self, name):
        """Removes an adapter; with the last one, what was frozen is trained again."""
        self.check_not_merged("an adapter is removed")
        self.check_known([name])
        _all_the_same(self._remove, name)

    def _remove(self, name):
        if name in self.weights:
            self.choose(None)
        self._take_from_layers([name])
        self.configs = {n: c for n, c in self.configs.items() if n != name}
        self.kept_ranks.pop(name, None)
        if self.trained is None:
            self.allocator = None
        if not self.configs:
            self._unfreeze()
        self.variables_changed()

    def _take_from_layers(self, names):
        for layer in self.layers().values():
            for name in names:
                layer.remove_adapter(name)

    @contextlib.contextmanager
    def as_before_if_it_fails(self):
        """Takes back what the block adds and activates if it fails or is interrupted."""
        before, active = self.state(), (self.trained, self.weights)
        trainable = [(variable, variable.trainable) for variable in self.model.variables]
        try:
            yield
        except BaseException:
            for layer in self.layers().values():
                for name in set(layer.adapters) - set(before["configs"]):
                    layer.remove_adapter(name)
            self.restore(before)
            self._activate(*active)
            for variable, was_trainable in trainable:
                variable.trainable = was_trainable
            self.variables_changed()
            raise

    def trained_adapters(self):
        """Dict of the `Adapter` that is trained, by the paths of its layers."""
        return {
            path: layer.adapters[self.trained]
            for path, layer in self.layers().items()
            if self.trained in layer.adapters
        }

    def make_triplets(self):
        """Makes the trained adapter, which adds nothing yet, one of triplets, random anew."""
        name, config = self.trained, self.configs[self.trained]
        if config.triplets:
            return
        if any(np.any(ops.convert_to_numpy(x.b)) for x in self.trained_adapters().values()):
            raise ValueError(
                "An adapter must not have been trained before its ranks become adaptive. "
                f"Received: the adapter {shown(name)}, which changes the model already. Add "
                "another one with `enable_lora`."
            )
        new = dataclasses.replace(config, triplets=True)
        with self.as_before_if_it_fails():
            for layer in (x for x in self.layers().values() if name in x.adapters):
                layer.remove_adapter(name)
                layer.add_adapter(name, new)
            self.configs = {**self.configs, name: new}
            self._activate(name, self.weights)
            self.variables_changed()
            self.reset_optimizer()

    # Into the base weights and out of them ----------------------------------------------------

    def merge(self):
        """Puts the active adapter, or the weighted sum, into the base weights."""
        self.check_not_merged("adapters are merged again")
        if not self.weights:
            raise ValueError("There must be an active adapter to merge. Call `set_adapter` first.")
        self._change_kernels(self._merge_into, self._unmerge_from, True)

    def unmerge(self):
        """Takes the adapters out of the base weights again."""
        if not self.is_merged:
            raise ValueError("There is nothing to unmerge: call `merge_adapter` first.")
        self._change_kernels(self._unmerge_from, self._merge_into, False)

    def _change_kernels(self, change, undo, is_merged):
        """Changes the kernels of all layers, or of none if it fails or is interrupted."""
        layers = self.layers().values()
        try:
            for layer in layers:
                change(layer)
            with self.switching():
                self.is_merged = is_merged
        except BaseException:
            for layer in layers:
                undo(layer)
            self.is_merged = not is_merged
            self.forget_programs()
            raise

    def _merge_into(self, layer):
        layer.active = dict(self.weights)
        layer.merge()
        layer.active = {}

    def _unmerge_from(self, layer):
        layer.unmerge()
        layer.active = dict(self.weights)

    def keep_merged(self):
        """Makes adapters that are merged a part of the base weights for good, and forgets them."""
        if self.is_merged:
            _all_the_same(self._keep_merged)

    def _keep_merged(self):
        for layer in self.layers().values():
            layer.merged = None
        self._take_from_layers(list(self.configs))
        self.is_merged, self.configs = False, {}
        self.trained, self.weights = None, {}
        self._unfreeze()
        self.variables_changed()

    # Frozen and trained -----------------------------------------------------------------------

    def _freeze(self):
        kept = {v.path for v in getattr(self.model, "head_variables", list)()}  # of a classifier
        frozen = [v for v in self.model.trainable_variables if v.path not in kept]
        self._unfrozen = sorted(variable.path for variable in frozen)
        for variable in frozen:
            variable.trainable = False

    def _unfreeze(self):
        unfrozen = set(self._unfrozen)
        for variable in self.model.variables:
            # Variables that were quantized since then stay frozen.
            if variable.path in unfrozen and keras.backend.is_float_dtype(variable.dtype):
                variable.trainable = True
        self.reset_optimizer()

    # For whoever has more to keep in step -----------------------------------------------------

    def state(self):
        """Dict of what `restore` takes back."""
        return {"configs": self.configs, "_unfrozen": self._unfrozen}

    def restore(self, state):
        """Sets what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)

    def switching(self):
        """Context manager: inside, other adapters become the active ones."""
        return contextlib.nullcontext()

    def forget_programs(self):
        """Called where compiled functions no longer hold."""
        return

    def trained_changed(self):
        """Called where another adapter may be the trained one."""
        return

    def reset_optimizer(self):
        """Called where an optimizer has the state of other variables."""
        return

    def variables_changed(self):
        """Called where variables have come or gone.

        On torch every layer, up to the task, keeps the parameters of all those inside it.
        """
        compat.register_all_parameters(self.model)
        self.forget_programs()

    # Checks -----------------------------------------------------------------------------------

    def check_known(self, names):
        """Raises a `ValueError` where an adapter is not there."""
        if unknown := [name for name in names if name not in self.configs]:
            known = shown_names(self.configs) or "none: call `enable_lora` first"
            raise ValueError(f"There is no adapter {shown(unknown[0])}. The adapters are: {known}.")

    def check_not_merged(self, what):
        """Raises a `ValueError` where adapters are merged, which must not be when `what`."""
        if self.is_merged:
            raise ValueError(
                "The adapters are merged into the base weights. Call `unmerge_adapter()` before "
                f"{what}."
            )

    def check_trainable(self):
        """Raises a `ValueError` where no adapter could be trained."""
        if self.is_merged:
            raise ValueError(
                "An adapter that is merged into the base weights cannot be trained. Call "
                "`unmerge_adapter()` first."
            )
        if self.configs and self.trained is None:
            raise ValueError(
                "One adapter must be active to be trained. Received: active_adapter="
                f"{self.active}. Call `set_adapter` with the name of one of "
                f"{shown_names(self.configs)}, or `remove_adapter` to train the base."
            )


def _all_the_same(change, *args):
    """Calls what can only go forward; if it is interrupted, once more from its beginning."""
    try:
        change(*args)
    except BaseException:
        change(*args)
        raise


def _weights(adapter):
    weights = {adapter: 1.0} if isinstance(adapter, str) else adapter or {}
    return {name: float(weight) for name, weight in weights.items()}
