"""keras-hub's calls for LoRA on a backbone, handed to the task that the backbone is part of."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.lora.apart import are_apart
from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.typing import Mixin, PathLike

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.task import T5Gemma2Task


class AdaptsThroughTask(Mixin):
    """A backbone whose adapters are those of its task, which freezes, saves and merges them."""

    _task = None  # weak reference to the task made of this backbone last

    def belongs_to(self, task: "T5Gemma2Task") -> None:
        """Names the task that this backbone is part of.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.backbone.belongs_to(lm)  # as the task itself says when it is made
        >>> lm.backbone.enable_lora(rank=2)
        >>> list(lm.adapters)
        ['default']
        """
        self._task = weakref.ref(task)

    def enable_lora(self, rank: int, target_layer_names: Sequence[str] | None = None) -> None:
        """Adds an adapter, as `T5Gemma2Seq2SeqLM.enable_lora` of the backbone's task does.

        Args:
            rank: int. Columns of A and rows of B; the scale is 1.
            target_layer_names: list of the names that `target` may hold there; by default all
                projections of both stacks.

        Raises:
            ValueError: the backbone is part of no task; or as the task has it.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.backbone.enable_lora(rank=2, target_layer_names=["query"])
        >>> lm.adapters["default"]["rank"]
        2
        """
        target = "text" if target_layer_names is None else target_layer_names
        self._own_task("enable_lora").enable_lora(rank, target=target)

    def save_lora_weights(self, filepath: PathLike) -> None:
        """Writes the adapter as `T5Gemma2Seq2SeqLM.save_adapter` of the backbone's task does.

        Args:
            filepath: path of the file, which is in the safetensors format whatever its name.

        Raises:
            ValueError: the backbone is part of no task, or there is no adapter.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.backbone.enable_lora(rank=2)
        >>> lm.backbone.save_lora_weights(directory / "adapter.safetensors")
        >>> sorted(path.name for path in directory.iterdir())
        ['adapter.md', 'adapter.safetensors']
        """
        self._own_task("save_lora_weights").save_adapter(filepath)

    def load_lora_weights(self, filepath: PathLike) -> None:
        """Adds an adapter as `T5Gemma2Seq2SeqLM.load_adapter` of the backbone's task does.

        Args:
            filepath: path of a file that `save_lora_weights` or `save_adapter` wrote.

        Raises:
            ValueError: the backbone is part of no task; or as the task has it.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.backbone.enable_lora(rank=2)
        >>> lm.backbone.save_lora_weights(directory / "adapter.safetensors")
        >>> lm.remove_adapter("default")
        >>> lm.backbone.load_lora_weights(directory / "adapter.safetensors")
        >>> lm.active_adapter
        'default'
        """
        self._own_task("load_lora_weights").load_adapter(filepath)

    def save_to_preset(self, *args: Any, **kwargs: Any) -> None:
        layers = [layer for layer in compat.all_layers(self) if isinstance(layer, Dense)]
        are_lost = any(layer.adapters and layer.merged is None for layer in layers)
        if are_lost and not are_apart():
            raise ValueError(
                "A backbone with adapters is saved by its task: call "
                "`T5Gemma2Seq2SeqLM.save_to_preset`, or `merge_adapter` before the backbone is "
                "saved on its own."
            )
        super().save_to_preset(*args, **kwargs)

    def _own_task(self, method):
        task = self._task() if self._task is not None else None
        if task is None:
            raise ValueError(
                "Adapters belong to a task, which freezes, saves and merges them together. "
                f"Received: a call of `{method}` of a backbone that is part of none. Make one "
                "first: `lm = T5Gemma2Seq2SeqLM(backbone)`."
            )
        return task
