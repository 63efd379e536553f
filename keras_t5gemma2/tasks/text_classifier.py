"""The task: text and images in, a class, several classes or a number out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import keras_hub

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.lora.targets import dense_layers
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.pooling import Pooling
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.tasks.heads import HeadTask
from keras_t5gemma2.typing import AdapterStart, Inputs, PathLike, Tensor

_POOLINGS = ("decoder", "mean", "attention")


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
@compat.never_torch_compiled
class T5Gemma2TextClassifier(HeadTask, keras_hub.models.TextClassifier):
    """A T5Gemma 2 model that reads text and images and says which class a row is of.

    The encoder reads text and images as in `T5Gemma2Seq2SeqLM.generate`. What is classified is

    - with `pooling="decoder"` the decoder's last state. The decoder reads the encoder's tokens
      once more, one place to the right behind the start token, as in the reference's
      `T5Gemma2ForSequenceClassification`;
    - with "mean" the mean of the encoder's states, and with "attention" a weighted mean with
      weights that are learned. The decoder does not run then, which is half of the work; it is
      frozen, and `from_preset(encoder_only=True)` leaves it out.

    A row gets the same outputs in any batch and with padding on either side. The reference gives
    them for a row alone: in a padded batch it shifts whole rows, and changes its answers.

    Called on arrays as `preprocessor.generate_preprocess` makes them, it gives (rows,
    num_classes) float32 logits, or what `activation` makes of them; those of the decoder are not
    read. `fit`, `evaluate` and `predict` take raw text and images.

    Args:
        backbone: `T5Gemma2Backbone`.
        num_classes: int. The number of classes; 1 for a number (regression).
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        activation: name of an activation, function or `None`, what the logits go through. The
            default loss takes logits, "softmax" for one class each and "sigmoid" for several.
        hidden_dim: int, the width of a hidden layer with tanh before the logits; `None` for none.
        dropout: float, before each matrix of the head, in training.
        pooling: "decoder", "mean" or "attention".
        start_token_id: int, what the decoder reads first; by default as the preprocessor's
            tokenizer has it, and 2 where there is none.

    Raises:
        ValueError: a value is not possible.

    Example:

    >>> cls = keras_t5gemma2.T5Gemma2TextClassifier
    >>> classifier = cls.from_preset("t5gemma2_tiny", num_classes=2)
    >>> history = classifier.fit(["Spell 7.", "Write 8."], [0, 1], epochs=6, verbose=0)
    >>> classifier.predict(["Spell 7.", "Write 8."], verbose=0).argmax(axis=-1).tolist()
    [0, 1]
    """

    has_token_outputs = False
    hub_task = ("text-classification", "classes")
    reference_class = "T5Gemma2ForSequenceClassification"

    def __init__(
        self,
        backbone: T5Gemma2Backbone,
        num_classes: int,
        preprocessor: T5Gemma2Seq2SeqLMPreprocessor | None = None,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        pooling: Literal["decoder", "mean", "attention"] = "decoder",
        start_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        if pooling not in _POOLINGS:
            raise ValueError(
                f"`pooling` must be one of {', '.join(map(repr, _POOLINGS))}. Received: "
                f"pooling={shown(pooling)}"
            )
        self.pooling = pooling
        self.pooler = Pooling("last" if pooling == "decoder" else pooling, name="pooler")
        self.needs_decoder = pooling == "decoder"
        if not self.needs_decoder and backbone.decoder is not None:
            backbone.decoder.trainable = False
        super().__init__(
            backbone,
            num_classes,
            preprocessor,
            activation,
            hidden_dim,
            dropout,
            start_token_id,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling}

    def enable_lora(
        self,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        target: str | Sequence[str] = "text",
        use_rslora: bool = False,
        use_dora: bool = False,
        name: str = "default",
        rank_pattern: Mapping[str, int] | None = None,
        alpha_pattern: Mapping[str, float] | None = None,
        init: AdapterStart | None = None,
        data: Inputs | None = None,
        base: PathLike | Any = None,
        lora_plus: float | None = None,
    ) -> None:
        """As `T5Gemma2Seq2SeqLM.enable_lora`; the head is trained beside the adapter.

        Where the decoder does not run, "text" stands for the projections of the encoder. The
        file of an adapter does not hold the head, which `save_to_preset` saves.

        Args:
            rank, alpha, dropout, target, use_rslora, use_dora, name: as there.
            rank_pattern, alpha_pattern, init, data, base, lora_plus: as there.

        Raises:
            ValueError: as there.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextClassifier
        >>> classifier = cls.from_preset("t5gemma2_tiny", num_classes=2)
        >>> classifier.enable_lora(rank=2, target=["query"])
        >>> classifier.trainable_variables[-1].path
        'head/output/bias'
        """
        if target == "text" and self.pooling != "decoder":
            target = [path for path in dense_layers(self.backbone) if path.startswith("encoder/")]
        rules = rank, alpha, dropout, target, use_rslora, use_dora, name
        patterns = rank_pattern, alpha_pattern
        super().enable_lora(*rules, *patterns, init, data, base, lora_plus)

    def _head_outputs(self, inputs):
        """The symbolic outputs of symbolic inputs."""
        ids, seen = inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
        if self.pooling == "decoder":
            states = self._decoded(inputs)
        else:
            images = inputs.get("images"), inputs.get("image_features")
            states = self.backbone.encode(ids, seen, *images)
        return self.head(self.pooler(states, seen))
