"""A callback of `fit` that gives the ranks of an adapter to the layers where they matter."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import counted, number
from keras_t5gemma2.training.optimizer_steps import inner_optimizer
from keras_t5gemma2.training.rank_allocation import (
    KeepMasked,
    Orthogonality,
    RankAllocator,
    RankSchedule,
)

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.task import T5Gemma2Task


class AdaptiveRank(keras.callbacks.Callback):
    """Shares a budget of ranks out among the layers while an adapter trains: AdaLoRA.

    The adapter, added by `enable_lora(rank=init_rank)` and not trained yet, becomes one of triplets
    before the first step: y = x W + alpha / rank * ((x A) * E) B, with E = 0, and A and B random.
    After `warmup` steps fewer and fewer triplets are kept, those that have mattered most to the
    loss (arXiv 2303.10512), until in the last `final` steps `target_rank` times the number of
    layers are left: many in some layers and none in others. What is not kept has E = 0. All of
    this is done as the peft library does it. The loss that `fit` shows includes a term that keeps
    A and B orthogonal.

    `save_adapter` and `save_peft_adapter` then write plain LoRA with a rank for each layer.

    Args:
        target_rank: int. Mean rank in the end.
        init_rank: int. The rank that the adapter has; by default whatever it is.
        warmup: int. Steps before the first triplets go.
        final: int. Steps after the last ones have gone.
        every: int. Steps between two choices.
        total_steps: int. Steps of `fit`, for data whose length is not known.
        beta1: float. How much of the average importance stays in a step.
        beta2: float. How much of the average of its spread stays in a step.
        orthogonality: float. The weight of that term of the loss.

    Attributes:
        ranks: dict from the paths of the layers to how many triplets each has kept.
        masks: dict from these paths to (rank,) bools, which ones are kept.
        importance: dict from these paths to dicts of the averages by the name of the variable:
            pairs of arrays, of sizes and of spreads. Empty before and after `fit`.
        budget: int. How many triplets may be kept now, over all layers.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
    >>> lm.enable_lora(rank=4, target=["query", "value"])
    >>> ranks = keras_t5gemma2.AdaptiveRank(target_rank=1, init_rank=4)
    >>> history = lm.fit(rows, epochs=3, callbacks=[ranks], verbose=0)
    >>> len(ranks.ranks), sum(ranks.ranks.values()) <= 1 * 12
    (12, True)
    """

    def __init__(
        self,
        target_rank: int,
        init_rank: int | None = None,
        warmup: int = 0,
        final: int = 0,
        every: int = 1,
        total_steps: int | None = None,
        beta1: float = 0.85,
        beta2: float = 0.85,
        orthogonality: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("target_rank", target_rank), ("every", every)):
            counted(name, value)
        for name, value in (("warmup", warmup), ("final", final)):
            counted(name, value, least=0)
        for name, steps in (("init_rank", init_rank), ("total_steps", total_steps)):
            if steps is not None:
                counted(name, steps)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if (found := number(beta)) is None or not 0 < found < 1:
                raise ValueError(
                    f"`{name}` must lie between 0 and 1. Received: {name}={shown(beta)}"
                )
        if (weight := number(orthogonality)) is None or not 0 <= weight < float("inf"):
            raise ValueError(
                "`orthogonality` must be a number of at least 0. Received: "
                f"orthogonality={shown(orthogonality)}"
            )
        self.target_rank, self.init_rank, self.total_steps = target_rank, init_rank, total_steps
        self.warmup, self.final, self.every = warmup, final, every
        self.betas, self.orthogonality = (beta1, beta2), orthogonality
        self._task: T5Gemma2Task | None = None
        self._allocator: RankAllocator | None = None
        self._found: tuple[Mapping[str, np.ndarray], int] | None = None

    def prepare(self, task: "T5Gemma2Task", total_steps: int | None = None) -> None:
        """Makes the adapter one of triplets, as `fit` does it before its first step.

        Args:
            task: the task, with an active adapter.
            total_steps: int. Steps of the optimizer that are to come, unless the callback itself
                has been told.

        Raises:
            ValueError: no plain adapter of one rank is active, it has been trained already, or the
                numbers of steps do not fit together.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=4, target=["query", "value"])
        >>> keras_t5gemma2.AdaptiveRank(target_rank=1).prepare(lm, total_steps=100)
        >>> lm.adapters["default"]["triplets"]
        True
        """
        total = self.total_steps if self.total_steps is not None else total_steps
        if total is None:
            raise ValueError(
                "`AdaptiveRank` must know how many steps `fit` takes. Received: total_steps=None, "
                "and data of unknown length. Give `total_steps`, or `steps_per_epoch` to `fit`."
            )
        adapters = task.adapter_set
        self._check_fits(adapters, total)
        adapters.make_triplets()
        if adapters.allocator is not None:  # of a `fit` that was interrupted
            adapters.allocator.forget()
        own = adapters.trained_adapters()
        count = len(own)
        for adapter in own.values():
            for variable, of_columns in ((adapter.a, True), (adapter.b, False)):
                weight = self.orthogonality / (2 * count)
                term = Orthogonality(weight, of_columns) if weight else None
                compat.set_regularizer(variable, term)
        numbers = self.target_rank * count, self.warmup, self.final, self.every, total
        first = sum(adapter.e.shape[0] for adapter in own.values())
        schedule = RankSchedule(first, *numbers)
        self._task, self._found = task, None
        self._allocator = RankAllocator(own, schedule, self.betas)
        optimizer = inner_optimizer(task.optimizer)
        if not task.optimizer.built:
            task.optimizer.build(task.trainable_variables)
        self._allocator.build(optimizer)
        adapters.kept_ranks.pop(adapters.trained, None)
        adapters.allocator = self._allocator
        adapters.variables_changed()

    def is_prepared(self, task: "T5Gemma2Task") -> bool:
        """Whether `prepare` has been called for a task, and no step been taken since.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> keras_t5gemma2.AdaptiveRank(target_rank=1).is_prepared(lm)
        False
        """
        own = self._allocator
        if own is None or own is not task.adapter_set.allocator:
            return False
        return own.optimizer is inner_optimizer(task.optimizer) and int(own.step) == 0

    def _check_fits(self, adapters, total):
        adapters.check_trainable()
        config = adapters.configs.get(adapters.trained)
        if config is None:
            raise ValueError(
                "`AdaptiveRank` must have an adapter to work on. Received: a model without an "
                "active adapter. Call `enable_lora` first, with the rank to begin with."
            )
        if config.rank_pattern or config.alpha_pattern:
            raise ValueError(
                "`AdaptiveRank` must begin with one rank and one alpha for all layers. Received: "
                "an adapter with a pattern. Call `enable_lora` without one."
            )
        if self.init_rank not in (None, config.rank):
            raise ValueError(
                "`init_rank` must be the rank that the adapter has. Received: "
                f"init_rank={self.init_rank}, and an adapter of rank {config.rank}. Call "
                f"`enable_lora(rank={self.init_rank})`."
            )
        if self.target_rank > config.rank:
            raise ValueError(
                "`target_rank` must be at most the rank to begin with. Received: "
                f"target_rank={self.target_rank}, and an adapter of rank {config.rank}"
            )
        if self.warmup + self.final >= total:
            raise ValueError(
                "`warmup` and `final` must leave steps between them. Received: "
                f"warmup={self.warmup}, final={self.final}, and {total} steps in all"
            )

    @property
    def ranks(self) -> dict[str, int]:
        return {path: int(mask.sum()) for path, mask in self.masks.items()}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Which triplets of each layer are kept: (init_rank,) bools by the path of the layer.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
        >>> lm.enable_lora(rank=4, target=["encoder/layer_0/attention/query"])
        >>> ranks = keras_t5gemma2.AdaptiveRank(target_rank=1)
        >>> ranks.prepare(lm, total_steps=100)
        >>> ranks.masks["encoder/layer_0/attention/query"].tolist()
        [True, True, True, True]
        """
        if self._found is not None:
            return dict(self._found[0])
        if self._allocator is None:
            return {}
        return {p: ops.convert_to_numpy(m) != 0 for p, m in self._allocator.masks.items()}

    @property
    def importance(self) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Two averages of each variable of an adapter: its importance, and how far that varies.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
        >>> lm.enable_lora(rank=4, target=["encoder/layer_0/attention/query"])
        >>> ranks = keras_t5gemma2.AdaptiveRank(target_rank=1)
        >>> ranks.prepare(lm, total_steps=100)
        >>> sorted(ranks.importance["encoder/layer_0/attention/query"])
        ['lora_a', 'lora_b', 'lora_e']
        """
        if self._allocator is None:
            return {}
        sizes, spreads = self._allocator.sizes, self._allocator.spreads
        return {
            path: {
                part: (ops.convert_to_numpy(size), ops.convert_to_numpy(spreads[path][part]))
                for part, size in of_layer.items()
            }
            for path, of_layer in sizes.items()
        }

    @property
    def budget(self) -> int | None:
        """How many triplets may be kept now, over all layers; `None` before training.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
        >>> lm.enable_lora(rank=4, target=["encoder/layer_0/attention/query"])
        >>> ranks = keras_t5gemma2.AdaptiveRank(target_rank=1)
        >>> ranks.prepare(lm, total_steps=100)
        >>> ranks.budget
        4
        """
        if self._found is not None:
            return self._found[1]
        if self._allocator is None:
            return None
        return self._allocator.schedule.budget(int(self._allocator.step))

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self._allocator is None:
            raise ValueError(
                "`AdaptiveRank` must be among the callbacks of `T5Gemma2Seq2SeqLM.fit`. Received: "
                f"a model of type {type(self.model).__name__}"
            )

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._allocator is None or self._task is None or self.budget is None:
            return
        self._found = self.masks, self.budget
        self._allocator.forget()
        for adapter in self._allocator.adapters.values():
            for variable in (adapter.a, adapter.b):
                compat.set_regularizer(variable, None)
        adapters = self._task.adapter_set
        kept = KeepMasked([adapter.e for adapter in self._allocator.adapters.values()])
        adapters.kept_ranks[adapters.trained] = kept
        self._allocator = adapters.allocator = None
        adapters.variables_changed()  # programs hold the term of the loss


def prepare_callbacks(callbacks, task, epochs, steps):
    """Prepares each `AdaptiveRank` among the callbacks of `fit`.

    Args:
        callbacks: list, or a `keras.callbacks.CallbackList`.
        task: `T5Gemma2Seq2SeqLM`.
        epochs: int. How many are to come.
        steps: int. Of an epoch, or `None`.
    """
    found = getattr(callbacks, "callbacks", callbacks)
    for callback in (one for one in found if isinstance(one, AdaptiveRank)):
        accumulated = inner_optimizer(task.optimizer).gradient_accumulation_steps or 1
        if not callback.is_prepared(task):
            callback.prepare(task, None if steps is None else epochs * steps // accumulated)
