"""The task: text and images in, a class for each token or word out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.words import places_of_words
from keras_t5gemma2.tasks.heads import HeadTask
from keras_t5gemma2.training.word_preparation import WordPreparation
from keras_t5gemma2.typing import ColumnNames, Inputs, Tensor


class LabelledWord(NamedTuple):
    """A word of a text, and what `T5Gemma2TokenClassifier.label_words` says of it.

    Args:
        text: string.
        start: int. Where it begins in the row's text.
        end: int. Where it ends.
        label: int, the class; -1 for a word that has been cut off.
        probability: float, of this class.
    """

    text: str
    start: int
    end: int
    label: int
    probability: float


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
@compat.never_torch_compiled
class T5Gemma2TokenClassifier(HeadTask, keras_hub.models.Task):
    """A T5Gemma 2 model that reads text and images and says which class each token is of.

    The encoder reads text and images as in `T5Gemma2Seq2SeqLM.generate`. The decoder reads the
    encoder's tokens once more, one place to the right behind the start token, and its states are
    classified, as in the reference's `T5Gemma2ForTokenClassification`: those of place i belong to
    the encoder's token i. A row gets the same outputs in any batch and with padding on either
    side, while the reference gives them for a row alone.

    Called on arrays as `preprocessor.generate_preprocess` makes them, it gives (rows, tokens,
    num_classes) float32 logits, or what `activation` makes of them; arrays of the decoder are not
    read. `fit` takes texts with a label for each word: a text is a string, whose words stand
    between white space, or a list of words; its labels are a list of integers, -100 for none. The
    first token of a word has its label. `label_words` says the classes of words.

    Args:
        backbone: `T5Gemma2Backbone`.
        num_classes: int, at least 2.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        activation: name of an activation, function or `None`, what the logits go through. The
            default loss takes logits or "softmax".
        hidden_dim: int, the width of a hidden layer with tanh before the logits; `None` for none.
        dropout: float, before each matrix of the head, in training.
        start_token_id: int, what the decoder reads first; by default as the preprocessor's
            tokenizer has it, and 2 where there is none.

    Raises:
        ValueError: a value is not possible.

    Example:

    >>> cls = keras_t5gemma2.T5Gemma2TokenClassifier
    >>> tagger = cls.from_preset("t5gemma2_tiny", num_classes=2)
    >>> texts, labels = ["Spell 7 in Dutch."], [[0, 1, 0, 0]]
    >>> history = tagger.fit(texts, labels, epochs=12, verbose=0)
    >>> [word.text for word in tagger.label_words(texts)[0] if word.label == 1]
    ['7']
    """

    preparation_cls = WordPreparation
    hub_task = ("token-classification", "a class of each token")
    reference_class = "T5Gemma2ForTokenClassification"

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
        if num_classes == 1:
            raise ValueError(
                "`num_classes` must be at least 2 where tokens are classified. Received: "
                f"num_classes={shown(num_classes)}. Two classes tell what is from what is not"
            )
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

    def _head_outputs(self, inputs):
        """The symbolic outputs of symbolic inputs."""
        return self.head(self._decoded(inputs))

    def label_words(
        self, x: Inputs, batch_size: int | None = None, columns: ColumnNames | None = None
    ) -> list[Any]:
        """The most likely class of each word, that of its first token.

        Args:
            x: texts as `fit` takes them, in memory.
            batch_size: int. Rows at a time, 32 by default.
            columns: as `fit` has it.

        Returns:
            For one text a list of `LabelledWord`, each (text, start, end, label, probability);
            for several texts a list of such lists.

        Raises:
            ValueError: there is no preprocessor; or about a row, which the message names.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TokenClassifier
        >>> tagger = cls.from_preset("t5gemma2_tiny", num_classes=2)
        >>> [(word.text, word.start) for word in tagger.label_words("Spell 7.")]
        [('Spell', 0), ('7.', 6)]
        """
        preparation = self._preparation(columns=Columns(columns, self.columns_read))
        preparation.check_preprocessor(x)
        rows, words = preparation.rows_and_words(x)
        outputs = self.predict(rows, batch_size, verbose=0)
        places = self._places(rows, words)
        is_logit = keras.activations.serialize(self.activation) != "softmax"
        found = [
            _labelled(row.encoder_text, of_row.spans, logits[at], at, is_logit)
            for row, of_row, logits, at in zip(rows, words, outputs, places, strict=True)
        ]
        return found[0] if isinstance(x, str) else found

    def _places(self, rows, words):
        encoded, _ = self.preprocessor.encode_rows(rows)
        lengths = [len(ids) for ids in encoded.encoder_ids]
        return places_of_words(self.preprocessor, rows, words, lengths)


def _labelled(text, spans, outputs, places, is_logit):
    """Of each word of a row, with the outputs at its place, which mean nothing where it is -1."""
    found = []
    for (start, end), output, place in zip(spans, outputs, places, strict=True):
        if is_logit:
            output = np.exp(output - output.max())
            output = output / output.sum()
        label = int(output.argmax()) if place >= 0 else -1
        probability = float(output[label]) if place >= 0 else 0.0
        found.append(LabelledWord(text[start:end], start, end, label, probability))
    return found
