"""The task: text and images in, a vector a row out. Long by its docstrings alone."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import keras
import keras_hub
import numpy as np

from keras_t5gemma2.arguments import check_flags
from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.heads import assign as assign_head
from keras_t5gemma2.checkpoints.own.files import metrics_of
from keras_t5gemma2.checkpoints.saving import by_one_process
from keras_t5gemma2.checkpoints.transformers.sentence_transformers import (
    write_sentence_transformers,
)
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.embedding_head import EmbeddingHead, checked_dimensions, shortened
from keras_t5gemma2.model.inputs import of_encoder
from keras_t5gemma2.preprocessing.columns import KEYS_OF_EMBEDDERS, Columns
from keras_t5gemma2.preprocessing.cuts import Cuts
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.sources import read_rows
from keras_t5gemma2.tasks.agreement import check_agreement
from keras_t5gemma2.tasks.encoder_task import EncoderTask
from keras_t5gemma2.tasks.row_reader import RowReader, joined
from keras_t5gemma2.training.embedding_loss import EmbeddingLoss
from keras_t5gemma2.training.embedding_preparation import EmbeddingPreparation
from keras_t5gemma2.typing import (
    ColumnNames,
    EmbeddingTable,
    FileDType,
    Inputs,
    PathLike,
    QuantizationMode,
    Tensor,
)


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
@compat.never_torch_compiled
class T5Gemma2TextEmbedder(EncoderTask, keras_hub.models.TextEmbedder):
    """A T5Gemma 2 encoder that gives each row of text and images one vector.

    The encoder reads a row as in `T5Gemma2Seq2SeqLM.generate`, the start token included, and the
    states of its tokens are pooled. The decoder does not run; where there is one, it is not
    trained. Called on arrays as `preprocessor.generate_preprocess` makes them, it gives (rows,
    dimensions) float32 vectors; those of the decoder are not read.

    Args:
        backbone: `T5Gemma2Backbone`, with a decoder or without.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        pooling: "mean", "attention", "first" or "last", how the states become one vector; the
            query of "attention" is the one new weight, which starts as the mean.
        normalize: bool. Whether vectors have the length 1.
        dimensions: int. How many numbers of a vector are kept, the first ones; `None` for all.
        prompts: dict of strings by name, which stand before a text: as `encode_text(prompt=...)`
            names them, and "query" and "document" in `fit`.

    Raises:
        ValueError, TypeError: a value is not possible.

    Example:

    >>> cls = keras_t5gemma2.T5Gemma2TextEmbedder
    >>> embedder = cls.from_preset("t5gemma2_tiny")
    >>> vectors = embedder.encode_text(["Spell 7 in Dutch.", "Spell 8 in Dutch.", "Japan"])
    >>> vectors.shape
    (3, 128)
    >>> near, far = embedder.similarity(vectors[:1], vectors[1:])[0]
    >>> bool(near > far)
    True
    """

    needs_decoder = False
    has_token_outputs = False
    needs_logits = True  # the rows of a batch are compared: none may be added
    columns_read = KEYS_OF_EMBEDDERS
    exported_functions = None
    embedding_loss: Any = None
    accuracy: Any = None

    def __init__(
        self,
        backbone: T5Gemma2Backbone,
        preprocessor: T5Gemma2Seq2SeqLMPreprocessor | None = None,
        pooling: Literal["mean", "attention", "first", "last"] = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
        prompts: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_flags(normalize=normalize)
        self.pooling, self.normalize = pooling, bool(normalize)
        self.dimensions = checked_dimensions(dimensions, backbone.config.hidden_dim)
        self.prompts = _checked_prompts(prompts)
        head = self.pooling, self.normalize, self.dimensions
        self.head = EmbeddingHead(*head, dtype=backbone.dtype_policy, name="embedding_head")
        self.reader = RowReader(self)
        super().__init__(backbone, preprocessor, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "normalize": self.normalize,
            "dimensions": self.dimensions,
            "prompts": dict(self.prompts),
        }

    def _graph(self):
        inputs = of_encoder(self.backbone.input)
        return inputs, self.outputs_of_inputs(inputs)

    def outputs_of_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(rows, dimensions) vectors of a dict of the encoder's inputs.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextEmbedder
        >>> embedder = cls.from_preset("t5gemma2_tiny")
        >>> ids = np.array([[2, 5, 7]])
        >>> inputs = {"encoder_token_ids": ids, "encoder_padding_mask": ids > 0}
        >>> tuple(embedder.outputs_of_inputs(inputs).shape)
        (1, 128)
        """
        seen = inputs["encoder_padding_mask"]
        return self.head(self._states(inputs), seen)

    def _states(self, inputs, layer=None):
        images = inputs.get("images"), inputs.get("image_features")
        ids, seen = inputs["encoder_token_ids"], inputs["encoder_padding_mask"]
        return self.backbone.encode(ids, seen, *images, layer=layer)

    @property
    def width(self) -> int:
        """How many numbers a vector has.

        Example:

        >>> keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny").width
        128
        """
        return self.dimensions or self.backbone.config.hidden_dim

    # Vectors ----------------------------------------------------------------------------------

    def encode_text(
        self,
        texts: Inputs | None,
        images: Any = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        dimensions: int | None = None,
    ) -> np.ndarray:
        """One vector for each row, the same in any batch and with any padding.

        Args:
            texts: a string, a list of strings, or rows as `generate` takes them, of which the
                encoder's side is read. Without a preprocessor: a dict of `encoder_token_ids` and
                `encoder_padding_mask`, and of a model that sees images `images`.
            images: for one string an image or a list of images; for a list of strings a list with
                `None`, an image or a list of images for each. They stand where the texts have
                their markers.
            prompt: the name of one of `prompts`, or a string to put before each text.
            batch_size: int. Rows at a time, by default 32; those of similar length come together.
            dimensions: int. The first so many numbers of each vector, of the length 1 again where
                vectors are normalized; by default all.

        Returns:
            (rows, dimensions) float32 array, (1, dimensions) for one string.

        Raises:
            ValueError, TypeError: an input is not possible; the message names the row.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextEmbedder
        >>> embedder = cls.from_preset("t5gemma2_tiny", prompts={"query": "Spell "})
        >>> one = embedder.encode_text("7 in Dutch.", prompt="query")
        >>> other = embedder.encode_text("Spell 7 in Dutch.", dimensions=64)
        >>> one.shape, other.shape, bool(np.allclose(np.linalg.norm(other), 1))
        ((1, 128), (1, 64), True)
        """
        dimensions = checked_dimensions(dimensions, self.width)
        rows = self.reader.rows(texts, images, self._prompt(prompt))
        read = self.reader.read(rows, self.outputs_of_inputs, ("vectors",), batch_size)
        vectors = joined(((numbers, found) for numbers, _, found in read), _count(rows))
        return shortened(vectors, dimensions, self.normalize) if dimensions else vectors

    def hidden_states(
        self,
        texts: Inputs,
        layer: int = -1,
        images: Any = None,
        prompt: str | None = None,
        length: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The encoder's hidden states for each token, as generators of images read them.

        Args:
            texts: as of `encode_text`.
            layer: int. 0 for the embedded tokens, i for the output of the i-th layer, -1 (or the
                number of layers) for the encoder's output, which is normed; -2 for that of the
                last layer but one, and so on, as the reference numbers its `hidden_states`.
            images: as of `encode_text`.
            prompt: as of `encode_text`.
            length: int. What every row is padded to, and cut at, with one warning; such as 256 or
                512. By default the longest row.
            batch_size: as of `encode_text`.

        Returns:
            A pair: (rows, length, hidden_dim) float32 array, zeros at padding, and (rows, length)
            bool array, true where there is a token. Padding is at the right.

        Raises:
            ValueError: there is no such layer; or as `encode_text`.

        Example:

        >>> embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")
        >>> states, mask = embedder.hidden_states(["a red house"], layer=-2, length=16)
        >>> states.shape, mask.shape
        ((1, 16, 128), (1, 16))
        """
        layer = self.backbone.encoder.checked_layer(layer)
        rows = self.reader.rows(texts, images, self._prompt(prompt))
        function, key = (lambda x: self._states(x, layer)), ("hidden states", layer)
        read = self.reader.read(rows, function, key, batch_size, length)
        most = length or max(int(mask.sum(axis=1).max()) for _, mask, _ in read)
        states = ((i, np.where(m[:, :, None], x, 0)[:, :most]) for i, m, x in read)
        masks = ((numbers, mask[:, :most]) for numbers, mask, _ in read)
        count = _count(rows)
        return joined(states, count).astype("float32"), joined(masks, count)

    @staticmethod
    def similarity(a: Tensor, b: Tensor) -> np.ndarray:
        """Cosine similarities of vectors, (rows of a, rows of b) float32.

        Args:
            a: (rows, dimensions) vectors, or one (dimensions,).
            b: as `a`, of as many dimensions.

        Raises:
            ValueError: the vectors are not of one width.

        Example:

        >>> a, b = np.eye(2), np.array([[0.0, 3.0]])
        >>> keras_t5gemma2.T5Gemma2TextEmbedder.similarity(a, b).tolist()
        [[0.0], [1.0]]
        """
        a, b = (np.atleast_2d(keras.ops.convert_to_numpy(x)) for x in (a, b))
        if a.shape[-1] != b.shape[-1]:
            raise ValueError(
                "Vectors to be compared must have as many numbers. Received: shapes "
                f"{a.shape} and {b.shape}"
            )
        return shortened(a, None, True) @ shortened(b, None, True).T

    def _prompt(self, prompt):
        if prompt is None:
            return ""
        if not isinstance(prompt, str):
            raise TypeError(f"`prompt` must be a string. Received: prompt={shown(prompt)}")
        return self.prompts.get(prompt, prompt)

    # Training ---------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "auto",
        loss: str | Callable[..., Any] = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training.

        `fit` takes rows of `query`, `document` and perhaps `negative`, a hard one, each a string:
        a dict of lists, a list of dicts, a table or a data set of them, or two lists. All rows
        must have a negative, or none. A teacher's vectors may stand beside them, (rows, width)
        floats, as `query_embedding`, `document_embedding` and `negative_embedding`. The prompts
        named "query" and "document" are put before the texts. What a batch holds decides which
        wrong documents a query meets: large batches teach more.

        Logs have `accuracy`, the part of queries that are nearer to their document than to any
        other of the batch and to their negative.

        Args:
            optimizer: as of `T5Gemma2Seq2SeqLM.compile`.
            loss: `EmbeddingLoss`, "auto" for one with its defaults, or a function like it.
            **kwargs: as `keras.Model.compile` has them; no metrics.

        Raises:
            ValueError: metrics are given.
            TypeError: `loss` is no function.

        Example:

        >>> embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")
        >>> embedder.compile(keras.optimizers.AdamW(1e-3))
        >>> rows = {"query": ["seven", "eight"], "document": ["sieben", "acht"]}
        >>> history = embedder.fit(rows, epochs=2, verbose=0).history
        >>> history["loss"][1] < history["loss"][0]
        True
        """
        if metrics := [name for name in ("metrics", "weighted_metrics") if kwargs.get(name)]:
            raise ValueError(
                "An embedder takes no metrics of labels: it has none. Received: "
                f"{shown(metrics)}. Compare what `encode_text` gives"
            )
        is_auto = isinstance(loss, str) and loss == "auto"
        if not is_auto and not callable(loss):
            raise TypeError(
                f'`loss` must be "auto", an `EmbeddingLoss` or a function like it. Received: '
                f"loss={shown(loss)}"
            )
        compat.forget_loss(self)
        self.embedding_loss = EmbeddingLoss() if is_auto else loss
        if self.accuracy is None:  # Keras keeps each that there ever was among the metrics
            self.accuracy = keras.metrics.Mean(name="accuracy")
        self.has_default_optimizer = isinstance(optimizer, str) and optimizer == "auto"
        if self.has_default_optimizer:
            optimizer = self.adapter_set.default_optimizer()
        self.adapter_set.forget_kept_programs()
        self.reader.programs = None
        keras.Model.compile(self, optimizer, None, **kwargs)
        if kwargs.get("auto_scale_loss", True):
            self._scale_loss()

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Tensor = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        loss, right = self.embedding_loss(y, y_pred)
        self.accuracy.update_state(right, sample_weight=keras.ops.shape(y_pred)[0])
        return loss + sum(compat.scaled_loss(self, one) for one in self.losses)

    def predict(
        self,
        x: Inputs | None = None,
        batch_size: int | None = None,
        group_by_length: bool | None = None,
        columns: ColumnNames | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `encode_text` of rows as `generate` takes them; `verbose` and the like are not read.

        Example:

        >>> embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")
        >>> embedder.predict(["Spell 7 in Dutch."], verbose=0).shape
        (1, 128)
        """
        rows = x if columns is None else read_rows(x, Columns(columns))[0]
        return self.encode_text(rows, batch_size=batch_size)

    def _preparation(
        self, class_weight=None, distillation=None, cuts=None, columns=None, targets="one"
    ):
        check_agreement(self.backbone, self.preprocessor)
        return EmbeddingPreparation(
            self.preprocessor,
            self.backbone.config,
            class_weight,
            cuts=Cuts() if cuts is None else cuts,
            columns=Columns(None, self.columns_read) if columns is None else columns,
            targets="one",
            prompts=(self.prompts.get("query", ""), self.prompts.get("document", "")),
        )

    def _check_distillation(self, distillation):
        raise ValueError(
            "`distillation` is of texts that a model writes. Received: it for an embedder. Give "
            "the teacher's vectors as columns, `query_embedding` and `document_embedding`"
        )

    def get_compile_config(self) -> dict[str, Any]:
        config = keras.Model.get_compile_config(self)
        serialized = keras.saving.serialize_keras_object
        return {
            **config,
            "optimizer": serialized(self.optimizer),
            "loss": serialized(self.embedding_loss),
            "state": {
                "is_default_optimizer": self.has_default_optimizer,
                "is_optimizer_built": bool(getattr(self.optimizer, "built", False)),
            },
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        state, given = config.get("state", {}), ("optimizer", "loss", "run_eagerly", "jit_compile")
        described = {name: config[name] for name in given if config.get(name) is not None}
        self.compile(**keras.saving.deserialize_keras_object(described))
        self.has_default_optimizer = bool(state.get("is_default_optimizer"))
        if state.get("is_optimizer_built") and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)  # Its variables are read from the file.

    # Files ------------------------------------------------------------------------------------

    @by_one_process
    def export_to_sentence_transformers(
        self, path: PathLike, dtype: FileDType = None, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes a directory that `sentence_transformers.SentenceTransformer(path)` loads.

        It is the encoder as `export_to_transformers` of an encoder alone writes it, with active
        adapters in its weights, and pooling, cutting, normalization and `prompts`. The library
        gives the same vectors of texts. `from_preset(path)` reads it back.

        Args:
            path: path of the directory, made if it is not there.
            dtype: as of `export_to_transformers`.
            max_shard_size: as of `export_to_transformers`.

        Raises:
            ValueError: `pooling` is "attention", which that library has not; there is no
                preprocessor; or as `export_to_transformers`.

        Example:

        >>> embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")
        >>> embedder.export_to_sentence_transformers(directory)
        >>> (directory / "1_Pooling" / "config.json").exists()
        True
        """
        metrics = metrics_of(self)
        write_sentence_transformers(path, self, dtype, max_shard_size, metrics)

    # Loading ----------------------------------------------------------------------------------

    @classmethod
    def from_preset(
        cls,
        preset: PathLike,
        load_weights: bool = True,
        text_only: bool = False,
        embeddings: EmbeddingTable | None = None,
        quantize: QuantizationMode | Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        encoder_only: bool = True,
        rope_factor: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """The embedder of a preset, of a published checkpoint or of an encoder alone.

        Args:
            preset: as of `T5Gemma2Seq2SeqLM.from_preset`; or a directory whose `model_type` is
                t5gemma2_encoder.
            load_weights: as there.
            text_only: as there.
            embeddings: as there.
            quantize: as there.
            allow_nonfinite: as there.
            encoder_sequence_length: as there.
            decoder_sequence_length: as there.
            encoder_only: bool. Whether the decoder is neither built nor read: of the 270M model
                268 of 368 million parameters of text are left. If false, the backbone is whole.
            rope_factor: as there.
            **kwargs: as there, such as `pooling` and `prompts`.

        Example:

        >>> embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")
        >>> embedder.backbone.decoder is None, embedder.count_params()
        (True, 1336416)
        """
        return super().from_preset(
            preset,
            load_weights,
            text_only,
            embeddings,
            quantize,
            allow_nonfinite,
            encoder_sequence_length,
            decoder_sequence_length,
            encoder_only=encoder_only,
            rope_factor=rope_factor,
            **kwargs,
        )

    def _load_head(self, checkpoint, given, allow_nonfinite):
        _fill_head(self, checkpoint, allow_nonfinite)


def embedder_beside(
    lm: Any, preset: PathLike, cls: type[T5Gemma2TextEmbedder] = T5Gemma2TextEmbedder
) -> T5Gemma2TextEmbedder:
    """The embedder of a preset, with its own pooling and prompts, around the backbone of `lm`.

    Args:
        lm: `T5Gemma2Seq2SeqLM` of the preset, with a preprocessor.
        preset: as of `from_preset`. One of another task has no such settings.
        cls: the class of the generation of `lm`.
    """
    checkpoint, _ = formats.open_checkpoint(preset)
    if checkpoint is None:
        return cls(lm.backbone, lm.preprocessor)
    task, settings = checkpoint.task(cls)
    embedder = task(lm.backbone, lm.preprocessor, **settings)
    _fill_head(embedder, checkpoint)
    return embedder


def _fill_head(embedder, checkpoint, allow_nonfinite=False):
    variables, settings = embedder.head_variables(), checkpoint.task(type(embedder))[1]
    if variables and settings.get("pooling") == embedder.pooling:
        remedy = "Give another `pooling` to do without"
        tensors = checkpoint.head_tensors()
        assign_head(variables, tensors, checkpoint.path, allow_nonfinite, remedy)


def _count(rows):
    return len(rows["encoder_token_ids"]) if isinstance(rows, dict) else len(rows)


def _checked_prompts(prompts):
    prompts = {} if prompts is None else prompts
    is_right = isinstance(prompts, Mapping) and all(
        isinstance(text, str) for pair in prompts.items() for text in pair
    )
    if not is_right:
        raise TypeError(
            "`prompts` must be a dict of strings by name, such as {'query': 'query: '}. Received: "
            f"prompts={shown(prompts)}"
        )
    return dict(prompts)
