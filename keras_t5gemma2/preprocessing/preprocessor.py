"""Text and images as the model's arrays, in one way for all uses. Long by its docstrings."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import keras_hub
import numpy as np

from keras_t5gemma2.arguments import check_constructor, check_file_name, check_flags
from keras_t5gemma2.checkpoints.saving import SavesPresets
from keras_t5gemma2.compat.keras_hub import filling_in
from keras_t5gemma2.files.config_objects import check_are_found, check_is_of, check_parts
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing import chat_template as templates
from keras_t5gemma2.preprocessing.arrays import (
    arrays_of_rows,
    empty_images,
    output_shapes,
    weights_of_labels,
)
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning
from keras_t5gemma2.preprocessing.dialogues import Dialogue, dialogue_of, is_message
from keras_t5gemma2.preprocessing.encoding import EncodedRows, RowEncoder
from keras_t5gemma2.preprocessing.from_preset import LoadsFromCheckpoints
from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.numpy_call import NumpyCall
from keras_t5gemma2.preprocessing.packing import (
    unpad_tokens,
)
from keras_t5gemma2.preprocessing.pan_and_scan import check_at_least_one
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.rows import as_table, parse_rows
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.preprocessing.traced import (
    is_traced,
    numpy_call,
    static_axes,
    tensors_of,
)
from keras_t5gemma2.registry import presets
from keras_t5gemma2.typing import Inputs, Tensor


def _fill_image_converter(cls, loader, kwargs):
    """Adds the preset's image converter, or `None` for the preset of a text-only model."""
    if "image_converter" in kwargs:
        return
    try:
        kwargs["image_converter"] = loader.load_image_converter(cls.image_converter_cls)
    except FileNotFoundError:
        kwargs["image_converter"] = None


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
@filling_in(_fill_image_converter)
class T5Gemma2Seq2SeqLMPreprocessor(
    NumpyCall, LoadsFromCheckpoints, SavesPresets, keras_hub.models.Seq2SeqLMPreprocessor
):
    """The arrays of `T5Gemma2Seq2SeqLM`, from text and images.

    The encoder reads `<bos>` and the text; in it, each `<start_of_image>` stands for one image and
    becomes the block of tokens that the reference makes of it. The decoder reads `<bos>` and its
    text, which in training ends with one `<eos>`. `parse_rows` lists the forms of input: a
    string, a list of strings, or a dict of `encoder_text`, `images` and `decoder_text`.

    Everything runs on numpy with every backend and gives numpy arrays; mapped over a
    `tf.data.Dataset`, the same code runs inside of the pipeline. There, map it over batches, or
    give both lengths: single rows have lengths of their own, which `batch` does not join.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        image_converter: `T5Gemma2ImageConverter`, or `None` for a model without a vision tower:
            then there are no `images`, neither as an input nor as an output.
        encoder_sequence_length: int, tokens. Longer encoder text is cut; images never are. By
            default what the published models are made for; `from_preset` gives what a checkpoint
            is made for. It can be set later, as the next.
        decoder_sequence_length: int, tokens. Longer decoder text is cut, in training together
            with its `<eos>`, so that the model does not learn to stop there.
        tokens_per_image: int. Image tokens in the block of one image, as the backbone has it.
        truncate: bool. Whether text that is too long is cut, with one warning for each call that
            names the row; if false, it is an error that names the row.
        chat_template: string. The Jinja template that turns messages into text; `None` for that
            of Gemma 3. `from_preset` gives what a checkpoint has. It can be set later.

    Example:

    >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
    >>> preprocessor = cls.from_preset("t5gemma2_tiny", decoder_sequence_length=5)
    >>> rows = {"encoder_text": ["7 in Dutch", "7"], "decoder_text": ["zeven", "7"]}
    >>> x, labels, sample_weight = preprocessor(rows, decoder_sequence_length=5)
    >>> x["encoder_token_ids"].shape
    (2, 32)
    >>> x["decoder_token_ids"]
    array([[   2,  382,  505,    1,    0],
           [   2, 1898,    1,    0,    0]], dtype=int32)
    >>> labels
    array([[ 382,  505,    1,    0,    0],
           [1898,    1,    0,    0,    0]], dtype=int32)
    >>> sample_weight
    array([[1., 1., 1., 0., 0.],
           [1., 1., 0., 0., 0.]], dtype=float32)
    """

    generation: int | None = 2
    backbone_cls: type[T5Gemma2Backbone] | None = T5Gemma2Backbone
    tokenizer_cls = T5Gemma2Tokenizer
    image_converter_cls = T5Gemma2ImageConverter
    presets = presets  # those that `from_preset` knows by name

    def __init__(
        self,
        tokenizer: T5Gemma2Tokenizer,
        image_converter: T5Gemma2ImageConverter | None = None,
        encoder_sequence_length: int = 131_072,
        decoder_sequence_length: int = 32_768,
        tokens_per_image: int = 256,
        truncate: bool = True,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_constructor(self, kwargs, "config_file")
        check_file_name(config_file=kwargs.get("config_file", "preprocessor.json"))
        check_is_of(T5Gemma2Tokenizer, tokenizer=tokenizer)
        if image_converter is not None:
            check_is_of(T5Gemma2ImageConverter, image_converter=image_converter)
        super().__init__(tokenizer, encoder_sequence_length, decoder_sequence_length, **kwargs)
        check_at_least_one(tokens_per_image=tokens_per_image)
        check_flags(truncate=truncate)
        self.image_converter = image_converter
        self.tokens_per_image = tokens_per_image
        self.truncate = truncate
        self.chat_template = chat_template
        self.built = True

    def call(
        self,
        x: Inputs,
        y: Any = None,
        sample_weight: Tensor | None = None,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
    ) -> Any:
        """The arrays of one training step.

        Args:
            x: dict of `encoder_text`, `decoder_text` and optionally `images`; see `parse_rows`.
            y: texts, the targets, where `x` holds no `decoder_text`; else `None`.
            sample_weight: `None`, or floats, which the tokens' weights are times: one per row, or
                one per label, (batch, labels): as many as the longest row has, or more.
            encoder_sequence_length: int. What rows are padded to and cut at, in the place of the
                longest one's bucket and of the preprocessor's own length; so the next.
            decoder_sequence_length: int.
            sequence_length: int. The same as `decoder_sequence_length`.

        Returns:
            A tuple of the inputs, the labels and the weights. The inputs are a dict of
            `encoder_token_ids` and `encoder_padding_mask` (batch, encoder length),
            `decoder_token_ids` and `decoder_padding_mask` (batch, decoder length), int32 and bool,
            padded to the longest row rounded up to 32, 48, 64, 96, 128, 192, ... tokens; and, with
            an image converter, float32 `images` (batch, most images of a row, height, width, 3) and
            `image_features`, of which one is empty, (batch, 0, ...): the second, but where the rows
            hold `ImageFeatures`; then it is (batch, most images of a row, tokens_per_image, width
            of the vision tower). The labels are the ids that follow those of the decoder, the
            weights are float32 and 0 where the label is
            padding. One row gives arrays without a batch axis.

        Raises:
            ValueError: if a row's images do not match its markers, cannot be read or would be
                cut, if `decoder_text` is missing or empty, or if a text is too long and not to be
                cut.
            TypeError: if a text is no string.
        """
        if y is not None:
            x = as_table(x, y)
        lengths = _given(encoder_sequence_length, decoder_sequence_length, sequence_length)
        arrays = self._call_arrays(x, lengths, training=True, sample_weight=sample_weight)
        labels, weights = arrays.pop("labels"), arrays.pop("sample_weight")
        return keras.utils.pack_x_y_sample_weight(arrays, labels, weights)

    def generate_preprocess(
        self,
        x: Inputs,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
    ) -> dict[str, Any]:
        """The arrays that generation starts from; the decoder's text is a prompt without `<eos>`.

        Args:
            x: a string, a list of strings, or a dict; see `parse_rows`. Without `decoder_text`
                the prompt is `<bos>`.
            encoder_sequence_length: as of `call`.
            decoder_sequence_length: as of `call`.
            sequence_length: as of `call`.

        Returns:
            A dict, as the inputs of `call`.

        Raises:
            ValueError: as `call`.
            TypeError: as `call`.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> arrays = preprocessor.generate_preprocess("Spell 7 in Dutch.")
        >>> arrays["decoder_token_ids"][:2], preprocessor.tokenizer.start_token_id
        (array([2, 0], dtype=int32), 2)
        """
        lengths = _given(encoder_sequence_length, decoder_sequence_length, sequence_length)
        return self._call_arrays(x, lengths, training=False)

    def generate_postprocess(self, x: Mapping[str, Tensor]) -> Any:
        """The text of generated ids, without padding and special tokens.

        Args:
            x: dict of `decoder_token_ids` and `decoder_padding_mask`, (batch, length) or
                (length,).

        Returns:
            A list of strings, or one string for ids without a batch axis.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> ids = np.array([2, *preprocessor.tokenizer("zeven"), 1, 0])
        >>> arrays = {"decoder_token_ids": ids, "decoder_padding_mask": ids != 0}
        >>> preprocessor.generate_postprocess(arrays)
        'zeven'
        """
        ids = to_numpy(x["decoder_token_ids"]).astype("int32")
        mask = to_numpy(x["decoder_padding_mask"]).astype("bool")
        rows = unpad_tokens(
            np.atleast_2d(ids), np.atleast_2d(mask), self.tokenizer.special_token_ids
        )
        texts = self.tokenizer.detokenize(rows)
        if end := self.end_of_text:
            texts = [text.partition(end)[0] for text in texts]
        return texts[0] if ids.ndim == 1 else texts

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids that end what is generated, where a call gives none.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.stop_token_ids == (preprocessor.tokenizer.end_token_id,)
        True
        """
        return (self.tokenizer.end_token_id,)

    @property
    def end_of_text(self) -> str:
        """The string before which a generated text ends, or "" where none does.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> cls.from_preset("t5gemma2_tiny").end_of_text
        ''
        """
        return ""

    def apply_chat_template(
        self,
        messages: str | Sequence[Any],
        add_generation_prompt: bool = True,
        tokenize: bool = False,
        **variables: Any,
    ) -> Any:
        """The text of a dialogue, as the checkpoint's own chat template or Gemma 3's writes it.

        It is that of the reference's `apply_chat_template`, and what `chat`, and training on
        messages, give the encoder.

        Args:
            messages: list of dicts of `role` ("system", "user" or "assistant", also called "model")
                and `content`, a string or a list of parts, `{"type": "text", "text": ...}` and
                `{"type": "image"}`; a list of such lists; or a string, one message of the user.
            add_generation_prompt: bool. Whether the model's turn is opened at the end.
            tokenize: bool. Whether to give token ids in place of text. Words of a message that are
                spelled like a control token, such as `<end_of_turn>`, stay text in them.
            **variables: what else the template may read.

        Returns:
            A string, or a flat list of ints; for several dialogues a list of those.

        Raises:
            ValueError: these are no messages, or the template refuses them, as where roles do not
                alternate.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> messages = [{"role": "user", "content": "Spell 7."}]
        >>> preprocessor.apply_chat_template(messages)
        '<bos><start_of_turn>user\\nSpell 7.<end_of_turn>\\n<start_of_turn>model\\n'
        >>> preprocessor.apply_chat_template(messages, tokenize=True)[:3]
        [2, 7, 1885]
        """
        check_flags(add_generation_prompt=add_generation_prompt, tokenize=tokenize)
        if isinstance(messages, (list, tuple)) and messages and not is_message(messages[0]):
            options = {"add_generation_prompt": add_generation_prompt, "tokenize": tokenize}
            return [self.apply_chat_template(one, **options, **variables) for one in messages]
        plain = dialogue_of(messages).messages
        asked = plain, self.template_in_use(), self.tokenizer, add_generation_prompt, variables
        if tokenize:
            return templates.ids_of_messages(*asked)
        return templates.text_of_messages(*asked)

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's own template of dialogues, or `None`; settable.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.chat_template = "{{ messages[-1]['content'] }}"
        >>> preprocessor.apply_chat_template("Spell 7.")
        'Spell 7.'
        """
        return self._chat_template

    @chat_template.setter
    def chat_template(self, value: str | None) -> None:
        if value is not None:
            templates.check_template(value)
        self._chat_template = value

    def template_in_use(self) -> str:
        """The template of dialogues: the checkpoint's own, else that of the generation's Gemma.

        Raises:
            ValueError: there is none of its own, and the vocabulary has no tokens for turns.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> "<start_of_turn>" in preprocessor.template_in_use()
        True
        """
        template, tokenizer = self.template_to_write(), self.tokenizer
        if template is None:
            raise ValueError(
                f"Dialogues need a vocabulary with `{tokenizer.start_of_turn_token}` and "
                f"`{tokenizer.end_of_turn_token}`, or a `chat_template` for other tokens. "
                "Received: chat_template=None, and a vocabulary without them"
            )
        return template

    def template_to_write(self) -> str | None:
        """What an export writes: `template_in_use`, or `None` where there is none.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.template_to_write() == preprocessor.template_in_use()
        True
        """
        if self.chat_template is not None:
            return self.chat_template
        ids = self.tokenizer.start_of_turn_token_id, self.tokenizer.end_of_turn_token_id
        return None if None in ids else templates.DEFAULT_TEMPLATES[self.tokenizer.generation]

    def encode_rows(
        self,
        x: Inputs,
        training: bool = False,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
    ) -> tuple[EncodedRows, bool]:
        """Ids and images row by row and without padding: what the other methods are made of.

        Args:
            x: as of `generate_preprocess`, or in training as of `call`.
            training: bool. Whether the decoder's ids are a target: they end with `<eos>`, and may
                be one longer than `decoder_sequence_length`, which counts inputs and labels.
            encoder_sequence_length: as of `call`.
            decoder_sequence_length: as of `call`.

        Returns:
            `EncodedRows`, and whether `x` was a single row without a batch axis.

        Raises:
            ValueError: as `call`.
            TypeError: as `call`.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> encoded, is_single = preprocessor.encode_rows("7")
        >>> preprocessor.tokenizer.detokenize(encoded.encoder_ids[0]), is_single
        ('<bos>7', True)
        """
        limits = self._lengths(encoder_sequence_length, decoder_sequence_length)
        rows, is_single = self._rows(x, training)
        encoded = self._encoder().encode(rows, training, limits[0], limits[1] + training)
        return encoded, is_single

    def check_rows(self, x: Inputs, training: bool = True) -> None:
        """Raises and warns of what `encode_rows` would, as far as it shows without reading a file.

        For a whole data set before the first step: texts are counted only where they may be too
        long.

        Args:
            x: as of `encode_rows`.
            training: as of `encode_rows`.

        Raises:
            ValueError: as `call`.
            TypeError: as `call`.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.check_rows({"encoder_text": ["one"], "decoder_text": ["1"]})
        """
        rows, _ = self._rows(x, training)
        encoder_limit, decoder_limit = self._lengths()
        self._encoder().check(rows, training, encoder_limit, decoder_limit + training)

    @property
    def encoder_sequence_length(self) -> int:
        """The most tokens that the encoder reads; settable.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.encoder_sequence_length = 32
        >>> preprocessor.encoder_sequence_length
        32
        """
        return self._encoder_limit

    @encoder_sequence_length.setter
    def encoder_sequence_length(self, value: int) -> None:
        self._encoder_limit = checked(encoder_sequence_length=value)

    @property
    def decoder_sequence_length(self) -> int:
        """The most tokens that the decoder reads; settable.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.decoder_sequence_length = 24
        >>> preprocessor.decoder_sequence_length
        24
        """
        return self._decoder_limit

    @decoder_sequence_length.setter
    def decoder_sequence_length(self, value: int) -> None:
        self._decoder_limit = checked(decoder_sequence_length=value)

    def set_lengths(
        self, encoder_sequence_length: int | None = None, decoder_sequence_length: int | None = None
    ) -> None:
        """Sets the lengths that are given: the most tokens that each stack reads.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLMPreprocessor
        >>> preprocessor = cls.from_preset("t5gemma2_tiny")
        >>> preprocessor.set_lengths(encoder_sequence_length=32)
        >>> preprocessor.encoder_sequence_length, preprocessor.decoder_sequence_length
        (32, 48)
        """
        if encoder_sequence_length is not None:
            self.encoder_sequence_length = encoder_sequence_length
        if decoder_sequence_length is not None:
            self.decoder_sequence_length = decoder_sequence_length

    def _rows(self, x, training):
        """Rows of text, and whether it was a single one without a batch axis."""
        rows, is_single = parse_rows(x, answers=training)
        if training:
            _check_targets_are_given(rows)
        if any(isinstance(row.encoder_text, Dialogue) for row in rows):
            rows = templates.rows_as_text(rows, self.template_in_use(), self.tokenizer)
        return rows, is_single

    def _encoder(self):
        parts = self.tokenizer, self.image_converter, self.tokens_per_image, self.truncate
        return RowEncoder(*parts)

    def get_config(self) -> dict[str, Any]:
        check_are_found(self.tokenizer, self.image_converter)
        return {
            "image_converter": None,  # the base class leaves it out where there is none
            **super().get_config(),
            "encoder_sequence_length": self.encoder_sequence_length,
            "decoder_sequence_length": self.decoder_sequence_length,
            "tokens_per_image": self.tokens_per_image,
            "truncate": self.truncate,
            # Left out where there is none: so files stay as they were.
            **({} if self.chat_template is None else {"chat_template": self.chat_template}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        check_parts(
            cls,
            config,
            tokenizer=getattr(cls.tokenizer_cls, "base_of_saved", cls.tokenizer_cls),
            image_converter=cls.image_converter_cls,
            audio_converter=None,
            video_converter=None,
        )
        return super().from_config(config)

    def _lengths(self, encoder=None, decoder=None):
        """(encoder, decoder) length: the preprocessor's own where none is given."""
        encoder = self.encoder_sequence_length if encoder is None else encoder
        decoder = self.decoder_sequence_length if decoder is None else decoder
        return tuple(checked(encoder_sequence_length=encoder, decoder_sequence_length=decoder))

    def _call_arrays(self, x, lengths, training, sample_weight=None):
        """The arrays of a public method by name, or in a traced pipeline the tensors."""
        if not is_traced():
            return self._arrays(x, lengths, training, sample_weight)
        tensors = tensors_of(as_table(x))
        outputs = output_shapes(
            static_axes(tensors), lengths, self.image_converter, self._empty_images(), training
        )
        if sample_weight is not None:
            tensors.update(tensors_of({"sample_weight": sample_weight}))

        cuts = Cuts()  # of all elements of the data set

        def arrays(*values):
            features = dict(zip(tensors, values, strict=True))
            weight = features.pop("sample_weight", None)
            with one_warning(cuts):
                arrays = self._arrays(features, lengths, training, weight)
            return [arrays[name] for name in outputs]

        results = numpy_call(arrays, list(tensors.values()), list(outputs.values()))
        return dict(zip(outputs, results, strict=True))

    def _arrays(self, x, lengths, training, sample_weight):
        caps = self._lengths(*lengths)
        encoded, is_single = self.encode_rows(x, training, *caps)
        arrays = arrays_of_rows(
            encoded, lengths, caps, self.tokenizer.pad_token_id, self._empty_images(), training
        )
        if training:
            arrays["sample_weight"] = weights_of_labels(
                arrays["sample_weight"], sample_weight, is_single
            )
        return {name: array[0] for name, array in arrays.items()} if is_single else arrays

    def _empty_images(self):
        return empty_images(self.image_converter, self.tokens_per_image)


def _given(encoder, decoder, alias):
    """The (encoder, decoder) length of a call, `None` where none is given."""
    if None not in (decoder, alias) and decoder != alias:
        raise ValueError(
            "`sequence_length` is another name of `decoder_sequence_length`: give only one. "
            f"Received: sequence_length={shown(alias)}, decoder_sequence_length={shown(decoder)}"
        )
    return encoder, alias if decoder is None else decoder


def _check_targets_are_given(rows):
    for row in rows:
        if row.decoder_text is None:
            raise ValueError(
                "`decoder_text` must be given for training: the labels are made from it. "
                f"Received: none for row {row.number} of {len(rows)}"
            )
