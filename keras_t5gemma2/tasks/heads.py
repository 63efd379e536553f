"""A task that classifies: what text and token classifiers share. Long by its docstrings alone."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import keras

from keras_t5gemma2.checkpoints.heads import ReferenceHead
from keras_t5gemma2.checkpoints.heads import assign as assign_head
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.export import runtimes
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.messages import short_errors, shown, shown_path
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.head import ClassifierHead, ShiftRight
from keras_t5gemma2.model.inputs import of_encoder
from keras_t5gemma2.options import counted, number
from keras_t5gemma2.preprocessing.columns import KEYS_OF_CLASSIFIERS, Columns
from keras_t5gemma2.preprocessing.cuts import Cuts
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.tasks.agreement import check_agreement
from keras_t5gemma2.tasks.encoder_task import EncoderTask
from keras_t5gemma2.training.label_loss import LabelAccuracy, LabelLoss
from keras_t5gemma2.training.label_preparation import LabelPreparation
from keras_t5gemma2.typing import PathLike, Tensor

# The start token of published models, where there is no preprocessor that says another.
_START_TOKEN_ID = 2


class HeadTask(EncoderTask):
    """A backbone with a new head on its hidden states; goes before a class of keras-hub.

    Args:
        backbone: `T5Gemma2Backbone`.
        num_classes: int.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        activation: name of an activation, function or `None`.
        hidden_dim: int or `None`.
        dropout: float.
        start_token_id: int or `None`.
        **kwargs: as `keras_hub.models.Task` has them.
    """

    columns_read = KEYS_OF_CLASSIFIERS
    hub_task: tuple[str, str]  # what Hugging Face calls the task, and what comes out
    exported_functions = runtimes.HeadFunctions
    reference_class: str  # that has such a head
    preparation_cls = LabelPreparation

    def __init__(
        self,
        backbone: T5Gemma2Backbone,
        num_classes: int,
        preprocessor: T5Gemma2Seq2SeqLMPreprocessor | None = None,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        start_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_classes = counted("num_classes", num_classes)
        self.hidden_dim = None if hidden_dim is None else counted("hidden_dim", hidden_dim)
        self.dropout = _rate(dropout)
        if not (activation is None or isinstance(activation, str) or callable(activation)):
            raise TypeError(
                "`activation` must be a name, a function or `None`. Received: activation="
                f"{shown(activation)}"
            )
        with short_errors():
            self.activation = keras.activations.get(activation)
        if start_token_id is None:
            tokenizer = getattr(preprocessor, "tokenizer", None)
            start_token_id = getattr(tokenizer, "start_token_id", None)
        self.start_token_id = _START_TOKEN_ID if start_token_id is None else int(start_token_id)
        self.head = ClassifierHead(
            self.num_classes, self.hidden_dim, self.dropout, self.activation, name="head"
        )
        super().__init__(backbone, preprocessor, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "activation": keras.activations.serialize(self.activation),
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
            "start_token_id": self.start_token_id,
        }

    def _decoded(self, inputs):
        """The decoder's states where it reads the encoder's tokens, one place to the right."""
        ids, seen = inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
        shifted = ShiftRight(self.start_token_id, name="shift_right")(ids, seen)
        decoder = {"decoder_token_ids": shifted, "decoder_padding_mask": seen}
        return self.backbone({**inputs, **decoder})["decoder_sequence_output"]

    def _graph(self):
        inputs = of_encoder(self.backbone.input)
        return inputs, self._head_outputs(inputs)

    def export(
        self,
        filepath: PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        *,
        batch_size: int | None = None,
        encoder_length: int | None = None,
        images: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Writes the model for a runtime that classifies without Keras and this package.

        It is one function, `classify`, from a dict of tensors to a dict of `outputs`. It takes
        `encoder_token_ids` and `encoder_padding_mask`, (batch_size, encoder_length) int32, and of
        a model that sees `images` (batch_size, images, height, width, 3) float32 in [-1, 1].
        Formats and sizes are those of `T5Gemma2Seq2SeqLM.export`; of "torch" the file is
        `classify.pt2`.

        Args:
            filepath: path of the file or directory. What is there stays until all is written.
            format: "tf_saved_model", "litert", "torch", "onnx" or "jax".
            verbose: bool or `None`. Whether to say that it is done; by default it is said.
            input_signature: as `keras.Model.export` has it, which is called if it is given.
            batch_size: int. Rows; `None` for any.
            encoder_length: int. Tokens of a row; `None` for any.
            images: int. Images and crops of each row; 0 for none, `None` for any.
            **kwargs: for "litert", attributes of TensorFlow's converter.

        Raises:
            ValueError: the backend cannot write the format, or a size is missing or not possible.
            ImportError: TensorFlow is needed and not installed.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextClassifier
        >>> classifier = cls.from_preset("t5gemma2_tiny", num_classes=2)
        >>> format = "torch" if keras.config.backend() == "torch" else "tf_saved_model"
        >>> sizes = {"batch_size": 1, "encoder_length": 32, "images": 0}
        >>> classifier.export(directory / "exported", format, verbose=False, **sizes)
        >>> (directory / "exported").is_dir()
        True
        """
        filepath = local_path(filepath)
        if input_signature is not None:
            with short_errors():
                return keras.Model.export(
                    self, filepath, format, verbose, input_signature, **kwargs
                )
        # The decoder's length is the encoder's.
        sizes = runtimes.Sizes(batch_size, encoder_length, 1, 2, images)
        runtimes.export(self, filepath, format, sizes, kwargs)
        if verbose is None or verbose:
            print(f"Saved artifact at '{filepath}'.")

    # Files ------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        activation = config.get("activation")
        if isinstance(activation, dict):  # a function of the user's own, which is registered
            config = {**config, "activation": keras.activations.deserialize(activation)}
        return super().from_config(config)

    @classmethod
    def _check_given(cls, given, checkpoint):
        if "num_classes" not in given:
            raise ValueError(
                "`num_classes` must be given for a preset without the head of a "
                f"{cls.__name__}. Received: {shown_path(checkpoint.path)}, and none"
            )

    def _load_head(self, checkpoint, given, allow_nonfinite):
        if "num_classes" not in given:  # else the head is a new one, as in keras-hub
            tensors = checkpoint.head_tensors()
            assign_head(self.head_variables(), tensors, checkpoint.path, allow_nonfinite)

    def _reference_head(self):
        self._check_is_of_reference()
        kind = "regression" if self.num_classes == 1 else None  # else it goes by the labels
        head = ReferenceHead(
            *(self.reference_class, self.num_classes, self.dropout, self.start_token_id, kind)
        )
        return head, {variable.path: variable for variable in self.head_variables()}

    def _check_is_of_reference(self):
        """Raises a `ValueError` where the reference has no such head."""
        given = {"activation": keras.activations.serialize(self.activation)}
        given |= {"hidden_dim": self.hidden_dim, "pooling": getattr(self, "pooling", "decoder")}
        wanted = {"activation": "linear", "hidden_dim": None, "pooling": "decoder"}
        differing = [f"{k}={shown(v)}" for k, v in given.items() if v != wanted[k]]
        if differing:
            raise ValueError(
                "The reference's head is one matrix on the decoder's states, and gives logits. "
                f"Received: {', '.join(differing)}. Save a preset instead"
            )

    # Training ---------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "auto",
        loss: str | keras.losses.Loss | Callable[..., Tensor] = "auto",
        *,
        metrics: Sequence[Any] | Literal["auto"] | None = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training.

        By default the loss goes by the labels, as in the reference: mean squares where
        `num_classes` is 1, cross-entropy for one class each, 0, 1, 2 and so on, binary
        cross-entropy for rows of `num_classes` zeros and ones.

        Args:
            optimizer: as `keras.Model.compile` has it; "auto" for AdamW, its gradients clipped to
                a norm of 1.0, with a rate for the width of the model and for what is trained. It
                is made anew when adapters come or go, and any other is kept.
            loss: a loss on outputs, or "auto".
            metrics: list of metrics on outputs; "auto" for `accuracy` where there are classes,
                and the mean absolute error, `mae`, where there is one number.
            **kwargs: as `keras.Model.compile` has them.

        Raises:
            ValueError: the default loss has no place for the `activation`; in the first step.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextClassifier
        >>> classifier = cls.from_preset("t5gemma2_tiny", num_classes=2)
        >>> classifier.compile(keras.optimizers.AdamW(1e-4))
        """
        self.token_loss = None
        self.has_default_loss = isinstance(loss, str) and loss == "auto"
        has_default_metrics = isinstance(metrics, str) and metrics == "auto"
        self.has_default_metrics = has_default_metrics
        # Rows that fill a batch up have no weight, which only these losses and metrics look at.
        own_metrics = kwargs.get("weighted_metrics") or (not has_default_metrics and metrics)
        self.needs_logits = bool(not self.has_default_loss or own_metrics)
        compat.forget_loss(self)  # of an earlier call
        self.has_default_optimizer = isinstance(optimizer, str) and optimizer == "auto"
        if self.has_default_optimizer:
            optimizer = self.adapter_set.default_optimizer()
        self.adapter_set.forget_kept_programs()
        activation = keras.activations.serialize(self.activation)
        if self.has_default_loss:
            loss = LabelLoss(activation)
        if has_default_metrics:
            kwargs["weighted_metrics"] = [
                *(kwargs.get("weighted_metrics") or ()),
                keras.metrics.MeanAbsoluteError(name="mae")
                if self.num_classes == 1
                else LabelAccuracy(activation),
            ]
            metrics = None
        keras.Model.compile(self, optimizer, loss, metrics=metrics, **kwargs)
        if kwargs.get("auto_scale_loss", True):
            self._scale_loss()

    def get_compile_config(self) -> dict[str, Any]:
        """What a file of the model keeps of `compile`: optimizer, loss and metrics."""
        config = super().get_compile_config()
        if config and self.has_default_loss:
            config["loss"] = "auto"
        if config and self.has_default_metrics:
            own = config.pop("weighted_metrics", None) or []
            config = {**config, "metrics": "auto", "weighted_metrics": own[:-1] or None}
        return config

    def _preparation(
        self, class_weight=None, distillation=None, cuts=None, columns=None, targets="one"
    ):
        check_agreement(self.backbone, self.preprocessor)
        return self.preparation_cls(
            self.preprocessor,
            self.backbone.config,
            class_weight,
            cuts=Cuts() if cuts is None else cuts,
            columns=Columns(None, self.columns_read) if columns is None else columns,
            targets=targets,
            num_classes=self.num_classes,
            has_own_loss=not getattr(self, "has_default_loss", True),
        )

    def _check_distillation(self, distillation):
        raise ValueError(
            "`distillation` is of texts that a model writes. Received: it for a "
            f"{type(self).__name__}. Give `fit` the teacher's outputs as labels, and `compile` a "
            "loss on them"
        )


def _rate(value):
    rate = number(value)
    if rate is None or not 0 <= rate < 1:
        raise ValueError(
            f"`dropout` must be a number from 0 to below 1. Received: dropout={shown(value)}"
        )
    return float(rate)
