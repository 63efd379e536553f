"""The tokenizer: text to token ids and back. Long by its docstrings."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self

import keras
import keras_hub
import numpy as np

from keras_t5gemma2.arguments import check_constructor, check_file_name
from keras_t5gemma2.checkpoints.saving import SavesPresets
from keras_t5gemma2.checkpoints.transformers.writer import write_tokenizer
from keras_t5gemma2.compat.keras_hub import set_special_tokens
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.preprocessing.from_preset import LoadsFromCheckpoints
from keras_t5gemma2.preprocessing.numpy_call import NumpyCall, check_fixed
from keras_t5gemma2.preprocessing.read_image import to_numpy
from keras_t5gemma2.preprocessing.token_inputs import (
    check_ids,
    decode,
    is_row,
    strings_of_array,
    text_of,
    texts_of_inputs,
)
from keras_t5gemma2.preprocessing.traced import is_traced, ragged_rows
from keras_t5gemma2.registry import presets
from keras_t5gemma2.typing import PathLike, Tensor
from keras_t5gemma2.vocabulary.special_tokens import (
    IMAGE_TOKENS,
    MASK_TOKEN,
    REQUIRED_TOKENS,
    TURN_TOKENS,
    VOCABULARY_FILE,
)
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary

_BY_THE_PREPROCESSOR = "the preprocessor puts <bos> and <eos> around the ids and pads them"
_FIXED = {
    "dtype": ("int32", "a tokenizer gives ids, whose tokens `id_to_token` gives"),
    "add_bos": (False, _BY_THE_PREPROCESSOR),
    "add_eos": (False, _BY_THE_PREPROCESSOR),
    "sequence_length": (None, _BY_THE_PREPROCESSOR),
}


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2Tokenizer(
    NumpyCall, LoadsFromCheckpoints, SavesPresets, keras_hub.tokenizers.Tokenizer
):
    """Token ids of texts, and texts of token ids.

    The ids are those of the `tokenizers` library on every text, with nothing put before or after
    them; tokens such as `<bos>` and `<start_of_image>` are found in the text too. Strings are
    split without TensorFlow on every backend. In a traced `tf.data` pipeline the same code runs
    inside of the graph.

    These tokens are attributes, as in `tokenizer.start_token` and `tokenizer.start_token_id`:
    `start_token`, `end_token` and `pad_token`, which every vocabulary must hold, and
    `start_of_image_token`, `end_of_image_token`, `image_token`, `start_of_turn_token` and
    `end_of_turn_token`, whose ids are None where a vocabulary has no such token. All but those of
    turns are in `special_tokens`.

    Args:
        proto: string, path-like or bytes. A SentencePiece model or a Hugging Face
            `tokenizer.json` of byte-pair encoding, or the path of one.

    Call arguments:
        inputs: a string, or a list, tuple or array of strings, as `str` or as bytes in UTF-8.

    Returns:
        A list of integers for one string, a list of such lists for several. In a traced
        `tf.data` pipeline an int32 tensor of shape (length,), or a ragged one of shape
        (batch, None).

    Raises:
        ValueError: if there is no vocabulary, or a text is no valid Unicode.
        TypeError: if an input is no string.

    Example:

    >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    >>> tokenizer(["<bos>seven", "sept décembre"])
    [[2, 715], [699, 1760]]
    >>> tokenizer.detokenize([2, 715])
    '<bos>seven'
    >>> tokenizer.pad_token_id, tokenizer.image_token_id
    (0, 6)
    """

    generation = 2
    backbone_cls = T5Gemma2Backbone
    presets = presets  # those that `from_preset` knows by name

    def __init__(self, proto: PathLike | bytes | None = None, **kwargs: Any) -> None:
        check_fixed("T5Gemma2Tokenizer", kwargs, _FIXED)
        check_constructor(self, kwargs, "config_file")
        check_file_name(config_file=kwargs.get("config_file", "tokenizer.json"))
        super().__init__(dtype="int32", **kwargs)
        self.file_assets = [VOCABULARY_FILE]
        self.set_proto(proto)

    def set_proto(self, proto: PathLike | bytes | None) -> None:
        """Takes another vocabulary.

        Args:
            proto: as in the constructor.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> other = keras_t5gemma2.T5Gemma2Tokenizer()
        >>> other.set_proto(tokenizer.to_tokenizer_json())
        >>> other.tokenize("seven") == tokenizer.tokenize("seven")
        True
        """
        vocabulary = None if proto is None else Vocabulary(proto)
        tokens = {**REQUIRED_TOKENS, **IMAGE_TOKENS, **TURN_TOKENS}
        ids = dict.fromkeys(tokens)
        if vocabulary is not None:
            ids = {name: vocabulary.token_to_id(token) for name, token in tokens.items()}
        missing = [token for name, token in REQUIRED_TOKENS.items() if ids[name] is None]
        if vocabulary is not None and missing:
            raise ValueError(
                "The vocabulary in `proto` must hold `<bos>`, `<eos>` and `<pad>`. "
                f"Missing: {', '.join(missing)}"
            )
        self._vocabulary = vocabulary
        for name, token in tokens.items():
            setattr(self, name, token)
            setattr(self, f"{name}_id", ids[name])
        # Read by `special_tokens` and `special_token_ids` of the base class.
        names = (*REQUIRED_TOKENS, *IMAGE_TOKENS)
        known = [name for name in names if vocabulary is None or ids[name] is not None]
        set_special_tokens(self, known)

    def call(
        self, inputs: str | bytes | Iterable[str | bytes] | Tensor, training: bool | None = None
    ) -> Any:
        return self.tokenize(inputs)

    def tokenize(self, inputs: str | bytes | Iterable[str | bytes] | Tensor) -> Any:
        """Token ids of one or several strings; the same as calling the tokenizer.

        Args:
            inputs: a string, or a list, tuple or array of strings.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.tokenize(["seven", "<bos>"])
        [[715], [2]]
        """
        vocabulary = self.loaded_vocabulary()
        if is_traced():
            return ragged_rows(lambda texts: vocabulary.encode(texts_of_inputs(texts)), inputs)
        if not isinstance(inputs, (str, bytes, list, tuple)):
            inputs = strings_of_array(inputs)
        if isinstance(inputs, (list, tuple)):
            return vocabulary.encode(texts_of_inputs(inputs))
        return vocabulary.encode([text_of(inputs, "`inputs`")])[0]

    def tokenize_with_offsets(
        self, inputs: str | bytes | Iterable[str | bytes] | Tensor
    ) -> tuple[Any, Any]:
        """Token ids of one or several strings, and which characters each token stands for.

        Args:
            inputs: a string, or a list, tuple or array of strings.

        Returns:
            The ids as `tokenize` gives them, and for each id a tuple (start, end): the token
            stands for `text[start:end]`. A space belongs to the token that begins with it; of a
            character that is spelled in several tokens, each stands for all of it.

        Raises:
            ValueError, TypeError: as the tokenizer called.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.tokenize_with_offsets("sept décembre")
        ([699, 1760], [(0, 4), (4, 13)])
        """
        vocabulary = self.loaded_vocabulary()
        if not isinstance(inputs, (str, bytes, list, tuple)):
            inputs = strings_of_array(inputs)
        if isinstance(inputs, (list, tuple)):
            return vocabulary.encode_with_offsets(texts_of_inputs(inputs))
        ids, offsets = vocabulary.encode_with_offsets([text_of(inputs, "`inputs`")])
        return ids[0], offsets[0]

    def detokenize(self, inputs: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Any:
        """The text of token ids, control and padding tokens included.

        It inverts `tokenize`, but for the character "▁" (U+2581), which a vocabulary spells like
        a space, and for bytes that are no valid UTF-8.

        Args:
            inputs: integers of shape (length,), or several such rows of any lengths, as lists,
                arrays or tensors.

        Returns:
            A string, or a list of strings for several rows.

        Raises:
            ValueError: if an id is not in the vocabulary.
            TypeError: if an id is no integer.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.detokenize(tokenizer.tokenize("sept décembre"))
        'sept décembre'
        """
        vocabulary = self.loaded_vocabulary()
        if hasattr(inputs, "to_list"):  # a ragged tensor
            inputs = inputs.to_list()
        if not isinstance(inputs, (list, tuple)):
            inputs = to_numpy(inputs)
            inputs = list(inputs) if inputs.ndim > 1 else inputs
        if isinstance(inputs, (list, tuple)) and any(map(is_row, inputs)):
            rows = enumerate(inputs)
            return [decode(vocabulary, to_numpy(row), f"`inputs[{i}]`") for i, row in rows]
        return decode(vocabulary, to_numpy(inputs), "`inputs`")

    def get_vocabulary(self) -> list[str]:
        """A list of all tokens in the order of their ids.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.get_vocabulary()[:3]
        ['<pad>', '<eos>', '<bos>']
        """
        return list(self.loaded_vocabulary().tokens)

    def vocabulary_size(self) -> int:
        """The number of tokens.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.vocabulary_size()
        2560
        """
        return len(self.loaded_vocabulary())

    def id_to_token(self, id: int) -> str:
        """The token of an id.

        Args:
            id: int, from 0 to below `vocabulary_size()`.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.id_to_token(1)
        '<eos>'
        """
        vocabulary = self.loaded_vocabulary()
        check_ids(vocabulary, np.asarray(id), "`id`")
        return vocabulary.tokens[id]

    def token_to_id(self, token: str | bytes) -> int:
        """The id of a token; that of `<unk>` where the vocabulary does not have it.

        Args:
            token: string or bytes.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.token_to_id("<eos>")
        1
        """
        vocabulary = self.loaded_vocabulary()
        token = text_of(token, "`token`")
        found = vocabulary.token_to_id(token)
        if found is None and vocabulary.unk_token is not None:
            found = vocabulary.token_to_id(vocabulary.unk_token)
        if found is None:
            raise ValueError(f"`token` must be in the vocabulary. Received: token={shown(token)}")
        return found

    @property
    def unk_token(self) -> str | None:
        """The token for what no other token covers, or `None`.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> print(tokenizer.unk_token)
        <unk>
        """
        return self.loaded_vocabulary().unk_token

    def to_tokenizer_json(self) -> bytes:
        """The bytes of a Hugging Face `tokenizer.json` that gives the same ids.

        Where one asks for it, it puts `<bos>` before a text, as the published one does. From the
        SentencePiece model of T5Gemma 2 it is the published file, to the byte; and a vocabulary
        that was read from such a file comes back as it was.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> (directory / "tokenizer.json").write_bytes(tokenizer.to_tokenizer_json()) > 0
        True
        """
        vocabulary = self.loaded_vocabulary()
        published = {MASK_TOKEN, *TURN_TOKENS.values(), vocabulary.unk_token}
        return vocabulary.to_json(self.start_token, {*self.special_tokens, *published})

    def export_to_transformers(self, path: PathLike) -> None:
        """Writes what `transformers.AutoTokenizer.from_pretrained(path)` reads.

        Args:
            path: path of the directory, made if it is not there. Its other files stay.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.export_to_transformers(directory)
        >>> sorted(path.name for path in directory.iterdir())
        ['tokenizer.json', 'tokenizer_config.json']
        """
        write_tokenizer(path, self)

    def save_assets(self, dir_path: PathLike) -> None:
        data = self.loaded_vocabulary().data
        with open(os.path.join(dir_path, VOCABULARY_FILE), "wb") as file:
            file.write(data)

    def load_assets(self, dir_path: PathLike | None) -> None:
        if dir_path is None:  # Keras asks again, by another name, where an attempt has failed
            raise ValueError(
                f"A tokenizer needs {VOCABULARY_FILE}, whole, beside its configuration. Received: "
                "a file or directory where it is missing or damaged"
            )
        self.set_proto(os.path.join(dir_path, VOCABULARY_FILE))

    def get_config(self) -> dict[str, Any]:
        # The vocabulary is saved as a file beside the configuration.
        return {**super().get_config(), "proto": None}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        if config.get("proto") is not None:
            raise ValueError(
                "A configuration must not name a file to read: its `proto` must be None. "
                f"Received: proto={shown(config['proto'])}. Use `T5Gemma2Tokenizer(proto)` instead."
            )
        # Its dtype is a policy of Keras, and always the same.
        return cls(**{name: value for name, value in config.items() if name != "dtype"})

    @property
    def has_vocabulary(self) -> bool:
        """Whether there is a vocabulary yet.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> tokenizer.has_vocabulary, keras_t5gemma2.T5Gemma2Tokenizer().has_vocabulary
        (True, False)
        """
        return self._vocabulary is not None

    def loaded_vocabulary(self) -> Vocabulary:
        """The `Vocabulary`.

        Raises:
            ValueError: there is none yet.

        Example:

        >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
        >>> len(tokenizer.loaded_vocabulary())
        2560
        """
        if self._vocabulary is None:
            raise ValueError(
                "This tokenizer has no vocabulary yet. Pass `proto` to `T5Gemma2Tokenizer`, or "
                "load the tokenizer with `from_preset` or `load_assets`."
            )
        return self._vocabulary
