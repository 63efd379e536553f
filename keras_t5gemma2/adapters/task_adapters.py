"""The adapters of a task: its optimizer and its compiled functions go with the active one."""

import contextlib
import weakref

import keras

from keras_t5gemma2.adapters.adapter_set import AdapterSet
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import say
from keras_t5gemma2.training.default_optimizer import default_optimizer
from keras_t5gemma2.training.optimizer_steps import LoraPlus, inner_optimizer

# Choices of adapters whose compiled functions are kept.
_MAX_PROGRAMS = 8
_EVALUATING = ("test_function", "predict_function")


class TaskAdapters(AdapterSet):
    """As `AdapterSet`, of a task.

    Compiled functions hold what was active when they were traced. Those of the last few choices
    are kept, so that going back to one compiles nothing.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
    """

    def __init__(self, task):
        super().__init__(task.backbone)
        self._task = weakref.ref(task)
        self._optimized = None  # the name of the adapter that the optimizer was last made for
        self._programs = {}  # compiled functions of choices that are not the present one

    @property
    def model(self):
        return self._task()

    def state(self):
        state = {**super().state(), "_optimized": self._optimized}
        optimizer = getattr(self.model, "optimizer", None)
        return state if optimizer is None else {**state, "optimizer": optimizer}

    def restore(self, state):
        if "optimizer" in state:
            self.model.optimizer = state["optimizer"]
        super().restore({name: state[name] for name in state if name != "optimizer"})

    def _remove(self, name):
        if self._optimized == name:
            self._optimized = None
        super()._remove(name)

    def _keep_merged(self):
        self._optimized = None
        super()._keep_merged()

    # The optimizer ----------------------------------------------------------------------------

    def trained_changed(self):
        """A new optimizer where the old one has the state of other variables."""
        if self.trained not in (None, self._optimized):
            self._optimized = self.trained
            self.reset_optimizer()

    def reset_optimizer(self):
        task = self.model
        optimizer = getattr(task, "optimizer", None)
        if optimizer is None:
            return
        if task.has_default_optimizer:
            new = self.default_optimizer()
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                new = keras.optimizers.LossScaleOptimizer(new, name=optimizer.name)
            task.optimizer = new
        elif optimizer.built:
            task.optimizer = type(optimizer).from_config(optimizer.get_config())

    def default_optimizer(self):
        """The optimizer where the user has named none; that of adapters is said."""
        of_adapters = self.trained is not None
        config = self.backbone.config
        optimizer = default_optimizer((config.decoder or config.encoder).hidden_dim, of_adapters)
        if of_adapters:
            say(
                f"The adapter {self.trained!r} trains with AdamW and a learning rate of "
                f"{float(optimizer.learning_rate):.2g}, unless `compile` names an optimizer."
            )
        return optimizer

    def step_changes(self):
        """What goes with each step of the optimizer, as `optimizer_steps.steps_changed` has it."""
        config, changes = self.configs.get(self.trained), []
        if config is None:
            return changes
        if config.lora_plus != 1:
            own = self.trained_adapters().values()
            changes.append(LoraPlus([adapter.b for adapter in own], config.lora_plus))
        if self.shortened is not None and self.shortened.warmup:
            changes.append(self.shortened)
        optimizer = inner_optimizer(self.model.optimizer)
        if self.allocator is not None and self.allocator.optimizer is optimizer:
            changes.append(self.allocator)
        elif self.trained in self.kept_ranks:
            changes.append(self.kept_ranks[self.trained])
        return changes

    # Compiled functions -----------------------------------------------------------------------

    @contextlib.contextmanager
    def switching(self):
        self._programs[self._choice()] = [
            {name: getattr(model, name, None) for name in names}
            for model, names in self._functions()
        ]
        yield
        while len(self._programs) > _MAX_PROGRAMS:
            self._programs.pop(next(iter(self._programs)))
        self._set(self._programs.get(self._choice()))

    def forget_programs(self):
        self.forget_kept_programs()
        self._set(None)

    def forget_kept_programs(self):
        """Forgets the compiled functions of all choices but the present one."""
        self._programs = {}

    def _choice(self):
        return tuple(sorted(self.weights.items())), self.trained, self.is_merged

    def _functions(self):
        parts = [(self.model, _EVALUATING), (self.backbone, _EVALUATING)]
        owners = (getattr(self.model, name, None) for name in ("generator", "reader"))
        return [*parts, *((owner, ("programs",)) for owner in owners if owner is not None)]

    def _set(self, kept):
        """Sets the compiled functions, to `None` where none are kept; a training step is not."""
        for number, (model, names) in enumerate(self._functions()):
            compat.set_functions(model, **(kept[number] if kept else dict.fromkeys(names)))
        compat.set_functions(self.model, train_function=None)
