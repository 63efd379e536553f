"""A task that is trained: `fit`, `evaluate`, `predict` and their steps. Long by its docstrings."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.adapters.task_adapters import TaskAdapters
from keras_t5gemma2.checkpoints.sources import is_of_gemma
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.generation.samplers import check_temperature
from keras_t5gemma2.messages import short_errors, shown
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.columns import KEYS, Columns
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning
from keras_t5gemma2.preprocessing.sources import are_arrays, read_rows, unpack
from keras_t5gemma2.tasks import scoring
from keras_t5gemma2.tasks.agreement import check_agreement
from keras_t5gemma2.training import rates
from keras_t5gemma2.training.adaptive_rank import prepare_callbacks
from keras_t5gemma2.training.checkpoint import with_places
from keras_t5gemma2.training.compile_config import compile_config, compile_from
from keras_t5gemma2.training.distillation import Distillation, sample_rows
from keras_t5gemma2.training.grouped_rows import grouped, hidden_of_groups, is_grouped
from keras_t5gemma2.training.grouping import check_grouping
from keras_t5gemma2.training.image_features import with_features
from keras_t5gemma2.training.joining import as_marked
from keras_t5gemma2.training.on_policy_distillation import OnPolicyDistillation
from keras_t5gemma2.training.optimizer_steps import steps_changed
from keras_t5gemma2.training.policy_gradient import PolicyGradient, check_no_rewards
from keras_t5gemma2.training.preparation import Preparation
from keras_t5gemma2.training.relora import prepare_restarts
from keras_t5gemma2.training.reporting import reporting_steps, step_begins
from keras_t5gemma2.training.sources import batches_of, reading, split_off
from keras_t5gemma2.training.teacher_samples import TeacherSamples
from keras_t5gemma2.training.token_loss import (
    TokenLoss,
    check_optimizer,
    check_trained,
    gives_hidden,
    giving_hidden,
    is_of_slopes,
    metrics_of_logits,
    sum_of_slopes,
    token_sums,
)
from keras_t5gemma2.typing import ColumnNames, Inputs, Mixin, Rewards, Tensor


class TrainableTask(Mixin):
    """A task whose steps take the loss from hidden states; calls and `predict` give logits."""

    columns_read: tuple[str, ...] = KEYS  # of the data
    has_token_outputs = True  # whether outputs are (rows, tokens, ...), not (rows, ...)
    needs_logits = False  # for what the user compiled with
    token_loss = None  # `TokenLoss`, unless the user compiled with a loss of their own
    has_default_optimizer = False  # whether the user has compiled with none of their own
    _is_checkpointing = None  # as the compiled training step has it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.adapter_set = TaskAdapters(self)
        super().__init__(*args, **kwargs)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "auto",
        loss: str | keras.losses.Loss | Callable[..., Tensor] = "auto",
        *,
        weighted_metrics: Sequence[Any] | Literal["auto"] | None = "auto",
        sampler: str | keras_hub.samplers.Sampler = "top_k",
        **kwargs: Any,
    ) -> None:
        """Configures training and generation.

        By default the loss is the mean cross-entropy over the target tokens, each times its
        weight, and the metrics are `accuracy` and `perplexity`, of tokens too. All three come
        from one pass that never forms the logits of a whole batch. A loss or metrics of your
        own get the logits, (batch, decoder length, vocabulary).

        On torch, `jit_compile=True` compiles what generates a token. That takes a minute or so
        for each size of input that `generate` or `stream` meets, and needs what `torch.compile`
        needs, such as a C++ compiler; each token is quicker then. Training, evaluation and the
        encoder run as without it.

        Args:
            optimizer: as `keras.Model.compile` has it; "auto" for AdamW, its gradients clipped to
                a norm of 1.0, with a rate for the width of the model and for what is trained:
                8.5e-5 for all weights of the 270M model, and ten times that for adapters. It is
                made anew when adapters come or go, and any other is kept.
            loss: a loss on logits, or "auto".
            weighted_metrics: list of metrics on logits, or "auto".
            sampler: name or `keras_hub.samplers.Sampler`, for `generate`.
            **kwargs: as `keras.Model.compile` has them.

        Raises:
            ValueError: `loss_weights` without a loss of your own.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(keras.optimizers.AdamW(1e-4), sampler="beam")
        >>> lm.sampler.num_beams
        5
        """
        if loss == "auto" and kwargs.get("loss_weights") is not None:
            raise ValueError(
                '`loss_weights` must come with a `loss`; loss="auto" is a single loss, whose '
                "tokens `sample_weight` weighs. Received: "
                f"loss_weights={kwargs['loss_weights']}"
            )
        with short_errors():
            sampler = keras_hub.samplers.get(sampler)
        self.token_loss = TokenLoss(weighted_metrics == "auto") if loss == "auto" else None
        if weighted_metrics == "auto":
            weighted_metrics = None if loss == "auto" else metrics_of_logits()
        self.needs_logits = bool(loss != "auto" or weighted_metrics or kwargs.get("metrics"))
        compat.forget_loss(self)  # of an earlier call
        self.has_default_optimizer = isinstance(optimizer, str) and optimizer == "auto"
        if self.has_default_optimizer:
            optimizer = self.adapter_set.default_optimizer()
        self.adapter_set.forget_kept_programs()
        super().compile(
            optimizer,
            None if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )
        if kwargs.get("auto_scale_loss", True):
            self._scale_loss()
        check_temperature(self.sampler)

    def _scale_loss(self):
        # Keras does so for "mixed_float16"; gradients of float16 are the same under "float16".
        scaled = keras.optimizers.LossScaleOptimizer
        if self.dtype_policy.name == "float16" and not isinstance(self.optimizer, scaled):
            self.optimizer = scaled(self.optimizer, name="loss_scale_optimizer")

    def get_compile_config(self) -> dict[str, Any]:
        """What a file of the model keeps of `compile`: optimizer, loss, metrics and sampler."""
        return compile_config(self, super().get_compile_config())

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as `get_compile_config` says, with an optimizer built to take its state."""
        compile_from(self, config)

    # Over data --------------------------------------------------------------------------------

    def fit(
        self,
        x: Inputs | None = None,
        y: Any = None,
        batch_size: int | None = None,
        sample_weight: Tensor | None = None,
        validation_data: Inputs | None = None,
        validation_split: float | None = None,
        validation_batch_size: int | None = None,
        class_weight: Mapping[int, float] | None = None,
        shuffle: bool = True,
        group_by_length: bool | None = None,
        distillation: Distillation | OnPolicyDistillation | None = None,
        columns: ColumnNames | None = None,
        rewards: Rewards | None = None,
        num_samples: int | None = None,
        policy: PolicyGradient | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains on raw text and images, or on what the preprocessor makes of them.

        Rows in memory are checked before the first step, all others when they are read. A batch
        is padded to its longest row, rounded up to 32, 48, 64, 96, 128, 192, ... tokens, and to 0,
        1, 2, 4, 8, ... images, so that few programs are compiled.

        Beside the loss and the metrics, logs and the history have the `learning_rate` of the last
        step and `tokens_per_second`: tokens of the encoder's and the decoder's inputs, images
        included and padding left out, of rows that weigh anything, over the time since the epoch
        began. The first epoch compiles; validation is not counted.

        Args:
            x: dict of `encoder_text`, `decoder_text` and, optionally, `images`, a value per row;
                a list or other sequence of such dicts of single rows; a data frame, or a
                `Dataset` of `datasets`; a list of texts, with their targets as `y`; or a
                `keras.utils.PyDataset`, `tf.data` or grain data set, torch `DataLoader`,
                `IterableDataset` or generator, over batches or over rows, whose elements may be
                tuples (x, y) or (x, y, sample_weight). Each may also hold arrays as the
                preprocessor makes them; ids, masks, labels and weights are checked. In a row,
                `decoder_text` may be a list of several targets, of which each epoch draws one;
                validation takes each as a row. Other columns are not read; a warning lists them.
                Or dialogues: a dict with `messages`, a list of them for each, as `chat` takes
                them, each of the model's messages being a row to learn; or with `prompt` and
                `completion`, strings (a message of the user, the answer) or messages, of which
                those of the completion are learned. `sample_weight` is per dialogue.
            y: texts, the targets where `x` holds no `decoder_text`; the labels of arrays, of
                which -100 has no loss; or `None`.
            batch_size: int. Rows per step, 32 by default; not for data that comes in batches.
            sample_weight: (rows,) or (rows, labels) floats, times the loss of the rows' tokens or
                of each label; of text as many as the longest row has, or more.
            validation_data: as `x`, or `(x,)`, `(x, y, sample_weight)`.
            validation_split: float. The part of the rows in memory, their last, to validate on.
            validation_batch_size: int. By default as `batch_size`.
            class_weight: dict from token ids to floats, times the loss of labels of this token.
            shuffle: bool. Whether rows in memory, or the batches of a `PyDataset`, come in a new
                order in each epoch.
            group_by_length: bool. Whether shuffled rows of text in memory come in batches of
                similar length, of which less is padding; by default they do. The batches come in
                a random order, another one in each epoch.
            distillation: `Distillation`, to learn from a teacher; validation goes by labels. Or
                `OnPolicyDistillation`, to learn from it on what the model itself writes, as with
                `rewards`.
            columns: dict from names of the data's columns to those that are read, such as
                `{"question": "encoder_text", "answer": "decoder_text"}`.
            rewards: list of functions f(inputs, outputs) that give a number for each output, the
                higher the better. Both are lists of strings, one for each sample: the row's text,
                and what the model wrote, without its control tokens. Each step then draws samples
                of its rows, 8 rows by default, and makes the better of them likelier. Targets are
                not needed and not read; of the other arguments, `batch_size`, `shuffle`,
                `validation_data`, `columns`, `callbacks`, `epochs`, `initial_epoch`,
                `steps_per_epoch` and `verbose` go with it. Logs have the `reward`, its deviation
                within a row, the distance `kl` to the reference model, the `length` in tokens, and
                how many samples `finished` by themselves.
            num_samples: int. Samples of each row, 8 by default with `rewards` and 1 with
                `OnPolicyDistillation`.
            policy: `PolicyGradient`, how rewards are learned from; by default GRPO.
            **kwargs: as `keras.Model.fit` has them.

        Raises:
            ValueError, TypeError: about a row or batch, which the message names.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> history = lm.fit(rows, epochs=2, verbose=0).history
        >>> history["loss"][1] < history["loss"][0]
        True
        """
        batch_size, size = checked(
            batch_size=batch_size, validation_batch_size=validation_batch_size
        )
        is_on_policy = isinstance(distillation, OnPolicyDistillation)
        if rewards is not None or is_on_policy:
            given = {"y": y, "sample_weight": sample_weight, "class_weight": class_weight}
            given |= {"validation_split": validation_split, "group_by_length": group_by_length}
            if rewards is None:
                self._check_distillation(distillation)
            else:
                self._check_no_loss("Learning from `rewards`")
            lesson = rewards, num_samples, policy, distillation
            others = batch_size, shuffle, columns, validation_data, size, kwargs
            history = self._fit_samples(x, lesson, given, others)
            _part_averages(self.optimizer)
            return history
        check_no_rewards(num_samples=num_samples, policy=policy)
        if distillation is not None:
            self._check_distillation(distillation)
        check_grouping(group_by_length, shuffle=shuffle)
        is_grouped = shuffle if group_by_length is None else group_by_length
        shared = {"cuts": Cuts(), "columns": Columns(columns, self.columns_read)}
        preparation = self._preparation(class_weight, distillation, targets="draw", **shared)
        evaluation = self._preparation(targets="each", **shared)
        training = batches_of(x, y, sample_weight, batch_size, shuffle, preparation, is_grouped)
        validation = None
        if validation_data is not None:
            x, y, sample_weight = validation_data, None, None
            if isinstance(x, tuple):  # a list is of rows
                x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(x)
            # Rows come in batches of `batch_size` where nothing is said; batches are as they are.
            validation = batches_of(x, y, sample_weight, size, False, evaluation, True)
            if size is None and batch_size is not None and validation.batch_size is not None:
                validation.batch_size = batch_size
        elif validation_split:
            training, validation = split_off(training, validation_split, size, evaluation)
        if validation is not None and (self.needs_logits or kwargs.get("validation_steps")):
            validation.lengths = None  # their order counts
        for data in (training, *([] if validation is None else [validation])):
            data.can_add_rows = not self.needs_logits
        steps = kwargs.get("steps_per_epoch")
        callbacks, is_saved = with_places(kwargs.pop("callbacks", None), training, steps)
        callbacks = rates.with_rates(callbacks, self)
        epochs = kwargs.get("epochs", 1) - kwargs.get("initial_epoch", 0)
        prepare_callbacks(callbacks, self, epochs, steps or training.num_batches)
        prepare_restarts(callbacks, self)
        reporting = reporting_steps(self, callbacks, kwargs.get("verbose", "auto"))
        options = {"validation_data": validation, **kwargs}
        with (
            reading(training, validation, steps=steps, may_begin_late=is_saved),
            reporting as callbacks,
        ):
            history = keras.Model.fit(self, training, callbacks=callbacks, **options)
        _part_averages(self.optimizer)
        return history

    def _fit_samples(self, x, lesson, given, options):
        raise ValueError(
            "`rewards` and `OnPolicyDistillation` are of texts that a model writes. Received: one "
            f"of them for a {type(self).__name__}. Use a T5Gemma2Seq2SeqLM"
        )

    def evaluate(
        self,
        x: Inputs | None = None,
        y: Any = None,
        batch_size: int | None = None,
        sample_weight: Tensor | None = None,
        group_by_length: bool | None = None,
        columns: ColumnNames | None = None,
        **kwargs: Any,
    ) -> Any:
        """The loss and metrics on data as `fit` takes it; of several targets, on each.

        Args:
            x, y, batch_size, sample_weight, columns: as `fit` has them.
            group_by_length: bool. Whether rows of text in memory come in the order of their
                length, so that less is padding; by default they do where the loss and the metrics
                are "auto", which no order changes, and all of the rows are read.
            **kwargs: as `keras.Model.evaluate` has them.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> sorted(lm.evaluate(rows, return_dict=True, verbose=0))
        ['accuracy', 'loss', 'perplexity']
        """
        steps = kwargs.get("steps")
        check_grouping(group_by_length, steps=steps)
        if group_by_length is None:
            group_by_length = steps is None and not self.needs_logits
        known = Columns(columns, self.columns_read)
        preparation = self._preparation(columns=known, targets="each")
        data = batches_of(x, y, sample_weight, batch_size, False, preparation, group_by_length)
        data.can_add_rows = not self.needs_logits
        reporting = self, kwargs.pop("callbacks", None), kwargs.get("verbose", "auto")
        with reading(data, steps=steps), reporting_steps(*reporting) as callbacks:
            return keras.Model.evaluate(self, data, callbacks=callbacks, **kwargs)

    def predict(
        self,
        x: Inputs | None = None,
        batch_size: int | None = None,
        group_by_length: bool | None = None,
        columns: ColumnNames | None = None,
        **kwargs: Any,
    ) -> Any:
        """The logits on data as `fit` takes it, (rows, decoder length, vocabulary).

        The decoder length is that of the longest batch. Logits are zeros where a batch had none.
        Rows are in their order.

        Args:
            x, batch_size, columns: as `fit` has them.
            group_by_length: bool. Whether the batches of rows of text in memory are of rows of
                similar length, so that less is padding; by default they are where all of them
                are read.
            **kwargs: as `keras.Model.predict` has them.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> lm.predict(rows, verbose=0).shape
        (1, 32, 2560)
        """
        steps = kwargs.get("steps")
        check_grouping(group_by_length, steps=steps)
        is_grouped = steps is None if group_by_length is None else group_by_length
        known = Columns(columns, self.columns_read)
        preparation = self._preparation(columns=known)
        data = batches_of(x, None, None, batch_size, False, preparation, is_grouped)
        data.is_joined, data.has_token_outputs = True, self.has_token_outputs
        reporting = self, kwargs.pop("callbacks", None), kwargs.get("verbose", "auto")
        with reading(data, steps=steps), reporting_steps(*reporting) as callbacks:
            found = data.joined(keras.Model.predict(self, data, callbacks=callbacks, **kwargs))
        return found if self.has_token_outputs else found[:, 0]

    def precompute(
        self, x: Inputs, batch_size: int = 8, verbose: int = 1, columns: ColumnNames | None = None
    ) -> Any:
        """`x` with what the frozen vision tower makes of its images in place of them.

        Training on it gives the same losses, and no step runs the tower. An image that comes
        several times is computed once. What already holds `ImageFeatures` stays as it is, so that
        a large data set can be given in parts; an interruption changes nothing.

        Args:
            x: rows as `fit` takes them; a data set is read to its end.
            batch_size: int. Images and crops at a time.
            verbose: 0 or 1. Whether to show the progress.
            columns: as `fit` has it.

        Returns:
            As `x`, with a list of `ImageFeatures` as each row's `images`; where `x` is no dict
            and no list of dicts, or columns were renamed, a dict of lists.

        Raises:
            ValueError: the vision tower is trainable or not there; or about an image, which the
                message names.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> image = np.zeros((32, 32, 3), "uint8")
        >>> rows = [{"encoder_text": "<start_of_image>?", "images": image, "decoder_text": "3"}]
        >>> lm.precompute(rows, verbose=0)[0]["images"]
        [ImageFeatures(crops=0, tokens_per_image=4, hidden_dim=96)]
        """
        return with_features(self, x, batch_size, verbose, columns)

    def sample_logits(
        self, x: Inputs, num_samples: int = 256, batch_size: int = 8, seed: int = 0
    ) -> TeacherSamples:
        """What a student learns from this model about rows, to be stored and used again.

        For each token of the targets, tokens are drawn by their probabilities, without putting
        back. The logits of a batch are never there all at once.

        Args:
            x: rows in memory as `fit` takes them, or arrays as the preprocessor makes them.
            num_samples: int. Tokens to draw for each token.
            batch_size: int. Rows at a time.
            seed: int.

        Returns:
            `TeacherSamples`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> lm.sample_logits(rows, num_samples=4)
        <TeacherSamples: 1 rows, 4 tokens, 4 each>
        """
        num_samples = checked(num_samples=num_samples)
        batches = batches_of(x, None, None, batch_size, False, self._preparation())
        return sample_rows(self, batches, num_samples, seed)

    def preprocess_samples(
        self, x: Inputs, y: Any = None, sample_weight: Tensor | None = None
    ) -> Any:
        """The arrays that `train_on_batch` and the like make of a batch, as `fit` takes it.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> x, labels, weights = lm.preprocess_samples(rows)
        >>> labels.shape == weights.shape
        True
        """
        if y is None and sample_weight is None:
            x, y, sample_weight = unpack(x)
        return self._preparation()(x, y, sample_weight)

    def _preparation(
        self, class_weight=None, distillation=None, cuts=None, columns=None, targets="one"
    ):
        # Again, since a tokenizer can take another vocabulary.
        check_agreement(self.backbone, self.preprocessor)
        return Preparation(
            self.preprocessor,
            self.backbone.config,
            class_weight,
            distillation,
            has_token_labels=self.token_loss is not None,
            cuts=Cuts() if cuts is None else cuts,
            columns=Columns() if columns is None else columns,
            targets=targets,
        )

    def _check_distillation(self, distillation):
        distillation.check(self)
        self._check_no_loss("`distillation`")
        # By its terms, what learns from Gemma derives from it.
        if is_of_gemma(distillation.source) and not is_of_gemma(self.backbone.source):
            self.backbone.source = distillation.source

    def _check_no_loss(self, what):
        if self.needs_logits:
            raise ValueError(
                f"{what} brings its own loss. Received: a task compiled with loss="
                f'{shown(self.loss)} or metrics on logits. Compile it with loss="auto" and '
                'weighted_metrics="auto"'
            )

    def score(
        self,
        inputs: Inputs,
        columns: ColumnNames | None = None,
        *,
        end_token: bool = True,
        per_token: bool = False,
        is_greedy: bool = False,
    ) -> Any:
        """How likely the model finds given targets.

        The logits of a chunk of tokens are there at a time, never those of all rows.

        Args:
            inputs: rows as `fit` takes them, or a tuple of texts and their targets; a data set is
                read to its end. Or a tuple of arrays as the preprocessor makes them, (x, labels)
                or (x, labels, weights), where -100 is a label that does not count.
            columns: as `fit` has it.
            end_token: bool. Whether the end token, that the target ends there, counts too.
            per_token: bool. Whether to give a number for each token.
            is_greedy: bool. Whether to say, too, which targets the model itself would choose.

        Returns:
            (rows,) float32: the log-probability of each row's `decoder_text`, the sum over its
            tokens and the end token. A number for a single row. With `per_token`, instead of each
            number a float32 array of one for each token that counts, which the number is the sum
            of: a list of arrays, or one of a single row. With `is_greedy`, a tuple of that and
            (rows,) bools, or one of a single row: whether each token that counts has the highest
            logit.

        Raises:
            ValueError: a target has more tokens than the preprocessor's
                `decoder_sequence_length`, the model's logits for a row are not finite, or
                `end_token=False` without a preprocessor; the message names the row.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> texts = ["Write 2026-12-17 in French."] * 2
        >>> right, wrong = lm.score((texts, ["17 décembre 2026", "7 mai 2026"]))
        >>> bool(right > wrong)
        True
        >>> rows = {"encoder_text": texts[0], "decoder_text": "17 décembre 2026"}
        >>> tokens, is_greedy = lm.score(rows, end_token=False, per_token=True, is_greedy=True)
        >>> tokens.shape == (len(lm.preprocessor.tokenizer("17 décembre 2026")),), is_greedy
        (True, True)
        """
        x, labels, weights, is_single = self._labels_to_score(inputs, columns)
        if not end_token:
            weights = scoring.without_end(self, labels, weights)
        scores, greedy = scoring.score_labels(self, x, labels, weights)
        greedy = np.array([bool(of_row.all()) for of_row in greedy])
        if not per_token:
            scores = np.array([of_row.sum() for of_row in scores], "float32")
        if is_single:
            scores, greedy = scores[0] if per_token else float(scores[0]), bool(greedy[0])
        return (scores, greedy) if is_greedy else scores

    def _labels_to_score(self, inputs, columns):
        """Arrays of rows, and whether it was a single row without a batch axis."""
        if self.preprocessor is None or (isinstance(inputs, tuple) and are_arrays(inputs[0])):
            x, labels, weights = self._arrays_to_score(inputs)
            if is_single := labels.ndim == 1:
                x = {name: value[None] for name, value in x.items()}
                labels, weights = labels[None], weights[None]
            return x, labels, weights, is_single
        known = Columns(columns)
        reads = {"several_targets": True, "reads_y": True, "answers": True}
        rows, is_single = read_rows(inputs, known, **reads)
        rows, _ = self._preparation().with_one_target(rows)
        with one_warning(Cuts(refuses_targets=True)):
            x, labels, weights = self.preprocessor.call(rows)
        return x, labels, weights, is_single

    def _arrays_to_score(self, inputs):
        x, labels, weights = keras.utils.unpack_x_y_sample_weight(inputs)
        if labels is None or not are_arrays(x):
            raise ValueError(
                "Without a preprocessor `inputs` must be a tuple of arrays, (x, labels) or (x, "
                f"labels, weights). Received: preprocessor=None, and {shown(inputs)}"
            )
        return dataclasses.replace(self._preparation(), has_token_labels=True)(x, labels, weights)

    # A step -----------------------------------------------------------------------------------

    def call(
        self,
        inputs: Mapping[str, Tensor],
        training: bool | None = None,
        mask: Tensor = None,
        **kwargs: Any,
    ) -> Any:
        inputs = self.backbone.complete(inputs)
        if is_grouped():
            return hidden_of_groups(self.backbone, inputs, training)
        if not gives_hidden(self):
            return super().call(inputs, training=training, mask=mask, **kwargs)
        return self.backbone(inputs, training=training)["decoder_sequence_output"]

    def train_step(self, *args: Any) -> Any:
        *state, batch = args  # of JAX, whose steps are given all that they change
        step_begins("a step of fit", batch)
        if is_of_slopes(batch[1] if len(batch) > 1 else None):
            with grouped():
                return super().train_step(*args)
        logs = rates.logs_of_step(self.optimizer, batch, *state)
        changes = self.adapter_set.step_changes()
        with self._without_logits(), steps_changed(self.optimizer, changes):
            return rates.with_logs(super().train_step(*args), logs)

    def test_step(self, *args: Any) -> Any:
        step_begins("a step of evaluate", args[-1])
        with self._without_logits():
            return super().test_step(*args)

    def predict_step(self, *args: Any) -> Any:
        step_begins("a step of predict", args[-1])
        return as_marked(super().predict_step(*args), args[-1])

    def train_on_batch(self, *args: Any, return_dict: bool = False, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`, on what `preprocess_samples` gives.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> x, labels, weights = lm.preprocess_samples(["Spell 7 in Dutch."], ["zeven"])
        >>> sorted(lm.train_on_batch(x, labels, weights, return_dict=True))
        ['accuracy', 'loss', 'perplexity']
        """
        found = super().train_on_batch(*args, return_dict=return_dict, **kwargs)
        return rates.without_logs(found, return_dict)

    def make_train_function(self, force: bool = False) -> Any:
        self.adapter_set.check_trainable()
        check_optimizer(self)
        # What was compiled for the other setting would go on as before.
        kernels.prepare_training(self)
        for variable in self.trainable_variables:
            kernels.lay_out(variable, for_steps=False)
        if self.train_function is None:
            check_trained(self.trainable_variables)
        is_checkpointing = self.backbone.gradient_checkpointing
        changed = is_checkpointing != self._is_checkpointing
        self._is_checkpointing = is_checkpointing
        return super().make_train_function(force or changed)

    def _without_logits(self):
        return giving_hidden(None if self.needs_logits else self)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Tensor = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of logits `y_pred`, as `compile` says; in a step, of hidden states.

        `y` are labels, or what `Distillation.targets` makes of them.
        """
        if is_of_slopes(y):
            return sum_of_slopes(self.backbone, y, y_pred, training) + self._losses_of_layers()
        if self.token_loss is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        of_hidden = gives_hidden(self)
        sums = token_sums(self.backbone, y, y_pred, sample_weight, training, of_hidden)
        return self.token_loss.update(sums, self._losses_of_layers())

    def _losses_of_layers(self):
        return sum(compat.scaled_loss(self, loss) for loss in self.losses)

    def token_sums(
        self,
        x: Mapping[str, Tensor],
        y: Any,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> kernels.TokenSums:
        """The loss of a batch as sums over its tokens, for training loops of your own.

        The loss of `fit` is `loss / weight`. Where several processes have a part of a batch each,
        both are added up over them before they are divided: a mean of their means would count
        the tokens of short answers more.

        Args:
            x, y, sample_weight: what `preprocess_samples` gives, as arrays or tensors. A label
                of -100 has no loss.
            training: bool. Whether a gradient will be asked for.

        Returns:
            `kernels.TokenSums`: `loss`, `correct` and `weight`, float32 scalars.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> x, labels, weights = lm.preprocess_samples(["Spell 7 in Dutch."], ["zeven"])
        >>> sums = lm.token_sums(x, labels, weights, training=False)
        >>> int(sums.weight), int(weights.sum())
        (3, 3)
        """
        kernels.check_parameters(self)
        with self._without_logits():
            y_pred, of_hidden = self(x, training=training), gives_hidden(self)
        return token_sums(self.backbone, y, y_pred, sample_weight, training, of_hidden)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """List of the metrics of `compile`, those of the tokens included.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> [metric.name for metric in lm.metrics]
        ['loss', 'token_loss', 'accuracy', 'perplexity']
        """
        return super().metrics + ([] if self.token_loss is None else self.token_loss.metrics)

    def get_metrics_result(self) -> dict[str, Any]:
        results = super().get_metrics_result()
        if self.token_loss is not None:
            # Keras weighs batches by their rows: those of few tokens would count too much.
            results["loss"] = results.pop(self.token_loss.mean.name)
        return results


def _part_averages(optimizer):
    """Gives the moving averages memory of their own.

    At the end of `fit` Keras assigns them to the weights. On JAX both are one buffer then, which
    the next training step cannot take twice.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    if optimizer.use_ema:
        for average in compat.moving_averages(optimizer):
            average.assign(ops.copy(average))
