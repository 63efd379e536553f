"""Looking inside of a task that generates: where it looks, and how sure it is."""

from collections.abc import Sequence
from typing import Any

from keras_t5gemma2.inspection.attention import attention_of
from keras_t5gemma2.inspection.probe import probe_of
from keras_t5gemma2.inspection.written import written
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer
from keras_t5gemma2.typing import Inputs, Mixin


class Inspected(Mixin):
    """The methods of a task that generates; goes before its other base classes."""

    def attention(
        self,
        row: Inputs,
        output: str | Sequence[int] | Sequence[Any] | None = None,
        **generate: Any,
    ) -> Any:
        """Where the model looks while it writes each token of a text.

        The text is `output`, or the row's `decoder_text`, both with the end token as `score` has
        it; where there is neither, the model's own, which is generated.

        Args:
            row: one row as `generate` takes it, such as a string or a dict of `encoder_text` and
                `images`; or several. With `output`, its `decoder_text` is the prompt before it.
            output: a string, or a list of ids, to which no end token is added. Of several rows
                one for each.
            **generate: arguments of `generate`, such as `max_new_tokens`, for a text that is
                generated.

        Returns:
            `AttentionWeights`: for each token its weights over the decoder's own tokens, the
            encoder's tokens and the parts of images, by layer and head; of several rows a list.
            They take 4 bytes for each layer, head, written token and token that it may see.

        Raises:
            ValueError: `output` is no text or has an id that is not in the vocabulary, the
                weights are not finite, or as `generate`.
            TypeError: an argument of `generate` has no meaning here.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> found = lm.attention("Write 2026-12-17 in French.", max_new_tokens=16)
        >>> where = found.encoder.mean(axis=(0, 1)).argmax(axis=-1)  # over layers and heads
        >>> [(found.tokens[i], found.encoder_tokens[where[i]]) for i in range(2)]
        [('1', '1'), ('7', '7')]
        """
        texts, is_single = written(self, row, output, generate)
        found = [attention_of(self, text) for text in texts]
        return found[0] if is_single else found

    def probe(
        self,
        row: Inputs,
        output: str | Sequence[int] | Sequence[Any] | None = None,
        top: int = 5,
        **generate: Any,
    ) -> Any:
        """How sure the model is of each token of a text, and what else it would have written.

        Args:
            row: as `attention` has it.
            output: as `attention` has it.
            top: int. How many of the likeliest tokens are named in each place.
            **generate: as `attention` has them.

        Returns:
            `Probe`: for each token its surprise, the entropy of the choice and the likeliest
            tokens; of several rows a list.

        Raises:
            ValueError: `top` is not from 1 to the size of the vocabulary; or as `attention`.
            TypeError: as `attention`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> probe = lm.probe("Spell 7 in German.", output="sechs")
        >>> probe.tokens[probe.surprise.argmax()], probe.alternatives[0][0][0]
        ('sechs', 'sieben')
        """
        size, count = self.backbone.config.vocabulary_size, integer(top)
        if count is None or not 1 <= count <= size:
            raise ValueError(
                f"`top` must be an integer from 1 to {size}, the tokens of the vocabulary. "
                f"Received: top={shown(top)}"
            )
        texts, is_single = written(self, row, output, generate)
        found = [probe_of(self, text, count) for text in texts]
        return found[0] if is_single else found
