"""How a student learns from what a teacher says of texts that the student wrote itself."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked, counted, number

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM

DIVERGENCES = ("forward", "reverse", "jensen_shannon")


class OnPolicyDistillation:
    """How `fit` learns from a teacher on the student's own samples.

    In each step the student writes samples of its rows, whose targets are not read, and at each of
    their tokens it is brought nearer to the teacher's distribution over all tokens. The loss is
    the mean over tokens of a divergence of the student's p and the teacher's q:

    - "forward": KL(q, p), which covers all that the teacher finds likely;
    - "reverse": KL(p, q), which leaves out what the teacher finds unlikely;
    - "jensen_shannon": beta KL(q, m) + (1 - beta) KL(p, m), where m = beta q + (1 - beta) p.

    (Agarwal et al. 2024, GKD, arXiv 2306.13649.) For each token of its samples a step holds
    about ten numbers for each token of the vocabulary in memory: with 262,144 of them, 8 samples of
    256 tokens take some 20 GB.

    Args:
        teacher: another `T5Gemma2Seq2SeqLM` of the student's vocabulary.
        divergence: string, as above.
        beta: float, above 0 and below 1; of "jensen_shannon".
        max_new_tokens: int. Of a sample; by default 256, or what the preprocessor's
            `decoder_sequence_length` leaves room for.
        seed: int. Of the samples.

    Raises:
        ValueError, TypeError: an argument is not as it should be.

    Example:

    >>> student = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> teacher = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lesson = keras_t5gemma2.OnPolicyDistillation(teacher, "reverse", max_new_tokens=4)
    >>> history = student.fit(["Spell 7 in Dutch."], distillation=lesson, verbose=0).history
    >>> round(history["loss"][0], 3)
    0.0
    """

    def __init__(
        self,
        teacher: "T5Gemma2Seq2SeqLM",
        divergence: Literal["forward", "reverse", "jensen_shannon"] = "reverse",
        beta: float = 0.5,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        if not hasattr(teacher, "backbone"):
            raise TypeError(
                f"`teacher` must be a T5Gemma2Seq2SeqLM. Received: teacher={shown(teacher)}"
            )
        if divergence not in DIVERGENCES:
            raise ValueError(
                f"`divergence` must be one of {DIVERGENCES}. Received: "
                f"divergence={shown(divergence)}"
            )
        share = number(beta)
        if share is None or not 0 < share < 1:
            raise ValueError(
                f"`beta` must be a number above 0 and below 1. Received: beta={shown(beta)}"
            )
        self.teacher, self.divergence, self.beta = teacher, divergence, float(share)
        self.max_new_tokens, self.seed = (
            checked(max_new_tokens=max_new_tokens),
            counted("seed", seed, least=0),
        )

    @property
    def source(self) -> str | None:
        """The model that the teacher's weights derive from, as `T5Gemma2Backbone` has it.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> print(keras_t5gemma2.OnPolicyDistillation(lm).source)
        t5gemma2_tiny
        """
        return self.teacher.backbone.source

    def check(self, student: "T5Gemma2Seq2SeqLM") -> None:
        """Raises a `ValueError` if a student cannot learn from this teacher.

        Args:
            student: `T5Gemma2Seq2SeqLM`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> teacher = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> keras_t5gemma2.OnPolicyDistillation(teacher).check(lm)
        """
        if self.teacher.backbone is student.backbone:
            raise ValueError(
                "The teacher must be another model than the student. Received: one of the same "
                "backbone"
            )
        sizes = [lm.backbone.config.vocabulary_size for lm in (self.teacher, student)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "Teacher and student must have one vocabulary. Received: vocabulary_size="
                f"{sizes[0]} of the teacher, {sizes[1]} of the student"
            )


def divergence_of(student, teacher, kind, beta=0.5):
    """The divergence of each token, and its slope by the student's logits.

    Args:
        student, teacher: (N, V) log-probabilities.
        kind, beta: as `OnPolicyDistillation` has them.

    Returns:
        (N,) and (N, V) arrays.
    """
    p, q = np.exp(student), np.exp(teacher)
    if kind == "forward":
        return (q * (teacher - student)).sum(axis=-1), p - q
    if kind == "reverse":
        by_token = student - teacher
        found = (p * by_token).sum(axis=-1)
    else:
        mixed = np.logaddexp(np.log(beta) + teacher, np.log1p(-beta) + student)
        by_token = (1.0 - beta) * (student - mixed)
        found = (p * by_token).sum(axis=-1) + beta * (q * (teacher - mixed)).sum(axis=-1)
    mean = (p * by_token).sum(axis=-1, keepdims=True)
    return found, p * (by_token - mean)
