"""What a student learns from a teacher: for each token, some of the teacher's tokens.

The Gemma 3 report (arXiv 2503.19786): 256 tokens are sampled for each token by the teacher's
probabilities, which are scaled to add up to 1 over them; the loss is the cross-entropy with that.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from keras_t5gemma2.generation import calls
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.messages import shown
from keras_t5gemma2.sharding.batch import of_rows
from keras_t5gemma2.training.teacher_samples import TeacherSamples

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM

# The teacher's logits of one chunk of tokens, in float32; noise and their sum are as large.
_CHUNK_BYTES = 80 << 20


class Distillation:
    """How `fit` learns from a teacher instead of from the labels alone.

    The loss is the cross-entropy of the student with the teacher's probabilities over the tokens
    that were sampled; `perplexity` then belongs to this loss, while `accuracy` still counts labels.

    Args:
        teacher: a `T5Gemma2Seq2SeqLM` of the student's vocabulary, which samples for every batch
            anew; or `TeacherSamples`, for rows in memory.
        num_samples: int. Tokens to sample for each token of a live teacher.
        label_weight: float, at least 0 and below 1. The part of the loss that is that of the
            labels.
        seed: int. Of a live teacher's samples.

    Raises:
        ValueError: `num_samples` or `label_weight` is out of range.
        TypeError: `teacher` is neither.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> student = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
    >>> samples = lm.sample_logits(rows, num_samples=8)
    >>> history = student.fit(rows, distillation=keras_t5gemma2.Distillation(samples), verbose=0)
    """

    def __init__(
        self,
        teacher: "T5Gemma2Seq2SeqLM | TeacherSamples",
        num_samples: int = 256,
        label_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not isinstance(teacher, TeacherSamples) and not hasattr(teacher, "backbone"):
            raise TypeError(
                "`teacher` must be a T5Gemma2Seq2SeqLM or TeacherSamples. "
                f"Received: teacher={shown(teacher)}"
            )
        if num_samples < 1 or not 0 <= label_weight < 1:
            raise ValueError(
                "`num_samples` must be at least 1, and `label_weight` at least 0 and below 1. "
                f"Received: num_samples={shown(num_samples)}, label_weight={shown(label_weight)}"
            )
        self.teacher, self.num_samples = teacher, num_samples
        self.label_weight, self.seed = label_weight, seed
        self._calls = itertools.count()

    @property
    def source(self) -> str | None:
        """The model that the teacher's weights derive from, as `T5Gemma2Backbone` has it.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> samples = lm.sample_logits({"encoder_text": ["one"], "decoder_text": ["1"]}, 4)
        >>> print(keras_t5gemma2.Distillation(samples).source)
        t5gemma2_tiny
        """
        return getattr(self.teacher, "backbone", self.teacher).source

    def check(self, student: "T5Gemma2Seq2SeqLM") -> None:
        """Raises a `ValueError` if a student cannot learn from this teacher.

        Args:
            student: `T5Gemma2Seq2SeqLM`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> teacher = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> keras_t5gemma2.Distillation(teacher).check(lm)
        """
        size = student.backbone.config.vocabulary_size
        if getattr(self.teacher, "backbone", None) is student.backbone:
            raise ValueError(
                "A live teacher must be another model than the student, whose weights are in use "
                "while it learns. Received: teacher of the same backbone. Give what its "
                "`sample_logits` makes of the rows"
            )
        if isinstance(self.teacher, TeacherSamples):
            largest = int(self.teacher.token_ids.max(initial=0))
            if largest >= size:
                raise ValueError(
                    "The samples must be of the student's vocabulary. Received: token id "
                    f"{largest}, and a student of vocabulary_size={shown(size)}"
                )
        elif self.teacher.backbone.config.vocabulary_size != size:
            raise ValueError(
                "Teacher and student must have one vocabulary. Received: vocabulary_size="
                f"{self.teacher.backbone.config.vocabulary_size} of the teacher, {size} of the "
                "student"
            )

    def targets(
        self, x: Mapping[str, np.ndarray], labels: np.ndarray, indices: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """What `fit` takes as labels.

        Args:
            x: dict of arrays, a batch as the model takes it.
            labels: (rows, length) integers.
            indices: (rows,) ints, which rows of the data they are, or `None` if that is unknown.

        Returns:
            A dict of `labels`, `teacher_ids` and `teacher_probabilities` (rows, length, samples).

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> x, labels, _ = lm.preprocessor({"encoder_text": ["one"], "decoder_text": ["1"]})
        >>> targets = keras_t5gemma2.Distillation(lm, num_samples=4).targets(x, labels)
        >>> {name: array.shape for name, array in targets.items()}
        {'labels': (1, 32), 'teacher_ids': (1, 32, 4), 'teacher_probabilities': (1, 32, 4)}
        """
        if isinstance(self.teacher, TeacherSamples):
            ids, shares = self._stored(x, labels, indices)
        else:
            rng = np.random.SeedSequence([self.seed, next(self._calls)])
            ids, shares = sample_batch(self.teacher, x, self.num_samples, rng)
        if self.label_weight:
            ids = np.concatenate([labels[..., None], ids], axis=-1)
            of_labels = np.full((*labels.shape, 1), self.label_weight, "float32")
            shares = np.concatenate([of_labels, shares * (1 - self.label_weight)], axis=-1)
        return {
            "labels": labels,
            "teacher_ids": ids.astype("int32"),
            "teacher_probabilities": shares.astype("float32"),
        }

    def _stored(self, x, labels, indices):
        samples = self.teacher
        if indices is None:
            raise ValueError(
                "Stored samples of a teacher go with rows in memory. Received: a data set whose "
                "rows have no number. Give the rows as a dict, or the teacher itself"
            )
        lengths = x["decoder_padding_mask"].sum(axis=1)
        ids = np.zeros((*labels.shape, samples.token_ids.shape[1]), "int32")
        shares = np.zeros(ids.shape, "float32")
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            found = samples.lengths[index] if index < len(samples) else None
            if found != length:
                raise ValueError(
                    "The samples of a teacher must be of the same rows and token ids. Received: "
                    f"{found} tokens in the samples of row {index}, {length} in its target. "
                    "Sample again with the preprocessor of the student"
                )
            ids[row, :length], shares[row, :length] = samples.of_row(index)
        return ids, shares


def split_targets(y):
    """Labels, and a dict's ids and probabilities of a teacher, or `None`."""
    if not isinstance(y, dict):
        return y, None
    return y["labels"], (y["teacher_ids"], y["teacher_probabilities"])


def sample_rows(task, batches, num_samples, seed):
    """`TeacherSamples` of batches as `Batches` gives them, in their order."""
    ids, shares, lengths = [], [], []
    for number, (x, *_) in enumerate(batches):
        of_batch = sample_batch(task, x, num_samples, np.random.SeedSequence([seed, number]))
        mask = x["decoder_padding_mask"].astype(bool)
        lengths += mask.sum(axis=1).tolist()
        for found, part in zip((ids, shares), of_batch, strict=True):
            found.append(part[mask])
    arrays = np.concatenate(ids), np.concatenate(shares), lengths
    return TeacherSamples(*arrays, source=task.backbone.source)


def sample_batch(task, x, num_samples, seeds):
    """Tokens drawn from the distribution of each token, without putting back.

    The logits of the batch are never there all at once.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        x: dict of arrays, a batch as the backbone takes it.
        num_samples: int. All of a smaller vocabulary.
        seeds: `numpy.random.SeedSequence`.

    Returns:
        (rows, length, samples) int32 ids, and their float32 probabilities, scaled to add up to 1;
        zeros at padding.
    """
    backbone = task.backbone
    count = min(num_samples, backbone.config.vocabulary_size)
    outputs = of_rows(backbone.predict_on_batch, backbone.complete(x))
    hidden = ops.convert_to_tensor(outputs["decoder_sequence_output"])
    mask = np.asarray(x["decoder_padding_mask"]).astype(bool)
    places = np.flatnonzero(mask)
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
    # Always as many tokens, so that one program is compiled.
    size = min(max(1, _CHUNK_BYTES // (4 * backbone.config.vocabulary_size)), mask.size)
    generator = _generator()
    call = calls.call_of(task.generator)
    draw = program(task.generator, ("sample_logits", count), lambda: _drawing(task, count), call)
    ids = np.zeros((*mask.shape, count), "int32").reshape(-1, count)
    shares = np.zeros(ids.shape, "float32")
    for start in range(0, len(places), size):
        some = places[start : start + size]
        chunk = ops.take(hidden, np.resize(some, size), axis=0)
        (seed,) = seeds.spawn(1)
        state = ops.convert_to_tensor(seed.generate_state(2).astype(generator.state.dtype))
        found = draw((), chunk, state)
        for array, values in zip((ids, shares), found, strict=True):
            array[some] = ops.convert_to_numpy(values)[: len(some)]
    return ids.reshape(*mask.shape, count), shares.reshape(*mask.shape, count)


@functools.cache
def _generator():
    """What turns two numbers into noise, in the way of the backend."""
    return keras.random.SeedGenerator(0)


def _drawing(task, count):
    """The function that draws for a chunk of hidden states, from a state of the generator."""
    generator = _generator()

    def draw(_, hidden, state):
        logits = ops.cast(task.logits(hidden), "float32")
        with keras.StatelessScope(state_mapping=[(generator.state, state)]):
            uniform = keras.random.uniform(ops.shape(logits), seed=generator)
        # The highest of logits with Gumbel noise are samples without putting back.
        noise = -ops.log(-ops.log(ops.clip(uniform, 1e-20, 1.0 - 1e-7)))
        _, ids = ops.top_k(logits + noise, count, sorted=False)
        return ids, ops.softmax(ops.take_along_axis(logits, ids, axis=-1))

    return draw
