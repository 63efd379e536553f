"""The loss that makes vectors of what belongs together near, as EmbeddingGemma was trained."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
from keras import ops

from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.embedding_head import checked_dimensions, unit
from keras_t5gemma2.options import number
from keras_t5gemma2.typing import Tensor

# The lengths that EmbeddingGemma's vectors of 768 numbers are cut to.
_LENGTHS = (768, 512, 256, 128)


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class EmbeddingLoss:
    """The sum of three losses (arXiv 2509.20354), of unit vectors and their cosines `sim`.

    - Contrastive: each query's document among the documents of the batch and the query's own hard
      negative, -log(e^(sim(q, p) / temperature) / sum), where the negative's part of the sum is
      times e^(hardness * sim(q, n)), through which no gradient goes. A document of another row
      does not count where it or its query is the same text.
    - Spread-out: the mean of squared cosines of different rows, of queries and of documents.
    - Distillation: the squared distance to the unit vectors of a teacher, where these are given,
      of queries, documents and negatives.

    The first two are added up over the lengths that vectors are cut to (Matryoshka).

    Args:
        temperature: float. What cosines are divided by.
        hardness: float. How much more similar hard negatives weigh.
        dimensions: sequence of ints, the lengths that vectors are cut to; "auto" for the whole
            vector and those of 768, 512, 256 and 128 that are shorter; `None` for the whole one.
        spread_out: float, what the spread-out loss is times; 0 leaves it out.
        distillation: float, what the loss of distillation is times.

    Raises:
        ValueError: a number is not possible.

    Example:

    >>> loss = keras_t5gemma2.EmbeddingLoss(temperature=0.1, dimensions=[128, 64])
    >>> embedder = keras_t5gemma2.T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny")
    >>> embedder.compile(loss=loss)
    >>> rows = {"query": ["seven", "eight"], "document": ["zeven", "acht"]}
    >>> sorted(embedder.evaluate(rows, verbose=0, return_dict=True))
    ['accuracy', 'loss']
    """

    def __init__(
        self,
        temperature: float = 0.05,
        hardness: float = 5.0,
        dimensions: Sequence[int] | Literal["auto"] | None = "auto",
        spread_out: float = 1.0,
        distillation: float = 1.0,
    ) -> None:
        self.temperature = _number("temperature", temperature, is_positive=True)
        self.hardness = _number("hardness", hardness)
        if isinstance(dimensions, str) and dimensions != "auto":
            raise ValueError(
                '`dimensions` must be "auto", `None` or a sequence of integers. Received: '
                f"dimensions={shown(dimensions)}"
            )
        self.dimensions: Any = dimensions
        if dimensions is not None and not isinstance(dimensions, str):
            self.dimensions = tuple(dimensions)
        self.spread_out = _number("spread_out", spread_out)
        self.distillation = _number("distillation", distillation)

    def get_config(self) -> dict[str, Any]:
        dimensions = self.dimensions
        return {
            "temperature": self.temperature,
            "hardness": self.hardness,
            "dimensions": list(dimensions) if isinstance(dimensions, tuple) else dimensions,
            "spread_out": self.spread_out,
            "distillation": self.distillation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def lengths(self, width: int) -> tuple[int, ...]:
        """The lengths that vectors of `width` numbers are cut to.

        Raises:
            ValueError: vectors have not so many numbers.

        Example:

        >>> keras_t5gemma2.EmbeddingLoss().lengths(640)
        (640, 512, 256, 128)
        """
        if self.dimensions is None:
            return (width,)
        if self.dimensions == "auto":
            return (width, *(length for length in _LENGTHS if length < width))
        return tuple(checked_dimensions(length, width) or width for length in self.dimensions)

    def __call__(self, y: Mapping[str, Tensor], vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the part of queries that are nearest to their documents.

        Args:
            y: dict of `texts`, (rows * k, k) or (rows * k, 1, k) integers: of each row, k times,
                the numbers of its query, its document and, if k is 3, its negative, which are
                equal where the texts are; and perhaps `teacher`, (rows * k, width) or (rows * k,
                1, width) floats.
            vectors: (rows * k, width) floats, those of each row one after another.

        Returns:
            Two float32 scalars.

        Example:

        >>> y = {"texts": np.array([[0, 1], [0, 1], [2, 3], [2, 3]])}
        >>> vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        >>> loss = keras_t5gemma2.EmbeddingLoss(temperature=1.0, spread_out=0.0)
        >>> [round(float(value), 4) for value in loss(y, vectors)]
        [0.3133, 1.0]
        """
        texts = ops.cast(y["texts"], "int32")
        k, width = texts.shape[-1], vectors.shape[-1]
        texts = ops.reshape(texts, (-1, k, k))[:, 0]
        parts = ops.reshape(ops.cast(vectors, "float32"), (-1, k, width))
        others = is_other(texts)
        loss, right = 0.0, None
        for length in self.lengths(width):
            cut = [unit(parts[:, i, :length]) for i in range(k)]
            of_length, found = self.contrastive(cut[0], cut[1], others, *cut[2:3])
            loss += of_length
            right = found if right is None else right  # of the longest
            if self.spread_out:
                loss += self.spread_out * (spread_out(cut[0]) + spread_out(cut[1]))
        if "teacher" in y:
            teacher = ops.reshape(
                ops.cast(y["teacher"], "float32"), (-1, k, y["teacher"].shape[-1])
            )
            loss += self.distillation * distillation(parts, teacher)
        return loss, right

    def contrastive(
        self, queries: Tensor, documents: Tensor, others: Tensor, negatives: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The contrastive loss, and the part of queries that are nearest to their documents.

        Args:
            queries: (rows, D) unit vectors.
            documents: the same.
            others: (rows, rows) bool, as `is_other` gives it.
            negatives: as `queries`, or `None`.

        Example:

        >>> loss, x = keras_t5gemma2.EmbeddingLoss(temperature=1.0), np.eye(2, dtype="float32")
        >>> round(float(loss.contrastive(x, x, 1 - np.eye(2))[0]), 4)
        0.3133
        """
        similarities = ops.matmul(queries, ops.transpose(documents))
        own = ops.sum(queries * documents, axis=-1)
        hidden = ops.where(ops.cast(others, "bool"), similarities / self.temperature, -1e30)
        among = [ops.expand_dims(own / self.temperature, 1), hidden]
        if negatives is not None:
            hard = ops.sum(queries * negatives, axis=-1)
            weight = self.hardness * ops.stop_gradient(hard)
            among.append(ops.expand_dims(hard / self.temperature + weight, 1))
        among = ops.concatenate(among, axis=1)
        loss = ops.mean(ops.logsumexp(among, axis=1) - among[:, 0])
        right = ops.mean(ops.cast(ops.argmax(among, axis=1) == 0, "float32"))
        return loss, right


def is_other(texts):
    """(rows, rows) bool: whether the document of one row is a wrong one for the query of another.

    Args:
        texts: (rows, k) integers, of each row the numbers of its query and its document first.
    """
    queries, documents = texts[:, 0], texts[:, 1]
    same = ops.equal(queries[:, None], queries) | ops.equal(documents[:, None], documents)
    return ops.logical_not(same)


def spread_out(vectors):
    """The mean of squared products of (rows, D) vectors of different rows."""
    rows = ops.shape(vectors)[0]
    products = ops.square(ops.matmul(vectors, ops.transpose(vectors)))
    own = ops.square(ops.sum(ops.square(vectors), axis=-1))  # the diagonal
    pairs = ops.cast(ops.maximum(rows * (rows - 1), 1), "float32")
    return (ops.sum(products) - ops.sum(own)) / pairs


def distillation(parts, teacher):
    """Squared distances of (rows, k, D) vectors to a teacher's: means over rows, summed over k."""
    if parts.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            "The teacher's vectors must have as many numbers as the model's. Received: "
            f"{teacher.shape[-1]} of the teacher and {parts.shape[-1]} of the model. Project them, "
            "or cut those that were trained to be cut"
        )
    squares = ops.sum(ops.square(unit(parts) - unit(teacher)), axis=-1)
    return ops.sum(ops.mean(squares, axis=0))


def _number(name, value, is_positive=False):
    found = number(value)
    if found is None or found < 0 or (is_positive and found == 0):
        rule = "a number above 0" if is_positive else "a number of at least 0"
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={shown(value)}")
    return float(found)
