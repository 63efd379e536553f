"""What a teacher says of rows, stored to be used again."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_t5gemma2.files.atomic import atomic_file
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.messages import cause
from keras_t5gemma2.typing import PathLike


class TeacherSamples:
    """Tokens that a teacher finds likely, for each token of the targets of some rows.

    Made by `T5Gemma2Seq2SeqLM.sample_logits`, for `Distillation`.

    Args:
        token_ids: (tokens, samples) int32, of all rows one after another.
        probabilities: (tokens, samples) float32, which add up to 1 for each token.
        lengths: (rows,) ints, the tokens of each row.
        allow_nonfinite: bool. Whether probabilities may be NaN or infinite.
        source: string or `None`. What the teacher's weights derive from, as `T5Gemma2Backbone` has
            it.

    Raises:
        ValueError: the shapes do not fit together, or a probability is not finite.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
    >>> lm.sample_logits(rows, num_samples=4)
    <TeacherSamples: 1 rows, 4 tokens, 4 each>
    """

    def __init__(
        self,
        token_ids: np.ndarray,
        probabilities: np.ndarray,
        lengths: Sequence[int] | np.ndarray,
        allow_nonfinite: bool = False,
        source: str | None = None,
    ) -> None:
        self.token_ids, self.probabilities = token_ids, probabilities
        self.lengths, self.source = np.asarray(lengths, int), source
        if len(token_ids) != self.lengths.sum() or token_ids.shape != probabilities.shape:
            raise ValueError(
                "`token_ids` and `probabilities` must have a row for each token. Received: "
                f"token_ids of shape {token_ids.shape}, probabilities of shape "
                f"{probabilities.shape}, and lengths that add up to {self.lengths.sum()}"
            )
        if not allow_nonfinite:
            _check_finite(self)
        self._starts = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        samples = self.token_ids.shape[1]
        return f"<TeacherSamples: {len(self)} rows, {len(self.token_ids)} tokens, {samples} each>"

    def of_row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(length, samples) ids and probabilities of one row.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> ids, probabilities = lm.sample_logits(rows, num_samples=4).of_row(0)
        >>> ids.shape, round(float(probabilities[0].sum()), 3)
        ((4, 4), 1.0)
        """
        start = self._starts[index]
        tokens = slice(start, start + self.lengths[index])
        return self.token_ids[tokens], self.probabilities[tokens]

    def save(self, path: PathLike) -> None:
        """Writes them to a file of numpy's, `.npz`, which is there once it is whole.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> lm.sample_logits(rows, num_samples=4).save(directory / "samples.npz")
        >>> keras_t5gemma2.TeacherSamples.load(directory / "samples.npz")
        <TeacherSamples: 1 rows, 4 tokens, 4 each>
        """
        arrays: dict[str, Any] = {
            "token_ids": self.token_ids,
            "probabilities": self.probabilities,
        }
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays, lengths=self.lengths, source=self.source or "")

    @classmethod
    def load(cls, path: PathLike, allow_nonfinite: bool = False) -> Self:
        """What `save` wrote.

        Args:
            path: path of the file.
            allow_nonfinite: bool. Whether probabilities may be NaN or infinite.

        Raises:
            ValueError: a probability is not finite; the message names the row.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> lm.sample_logits(rows, num_samples=4).save(directory / "samples.npz")
        >>> len(keras_t5gemma2.TeacherSamples.load(directory / "samples.npz"))
        1
        """
        with np.load(local_path(path), allow_pickle=False) as file:
            arrays = file["token_ids"], file["probabilities"], file["lengths"]
            source = str(file["source"]) or None if "source" in file else None
        try:
            return cls(*arrays, allow_nonfinite, source)
        except ValueError as error:
            raise ValueError(f"{cause(error, 1000)}. The samples are those of {path}") from error


def _check_finite(samples):
    is_sound = np.isfinite(samples.probabilities).all(axis=-1)
    if not is_sound.all():
        ends = np.cumsum(samples.lengths)
        row = int(np.searchsorted(ends, int(np.argmin(is_sound)), side="right"))
        raise ValueError(
            "`probabilities` of a teacher's samples must be finite. Received: "
            f"{int(np.count_nonzero(~is_sound))} of {len(is_sound)} tokens with NaN or infinite "
            f"ones, the first in row {row}. Sample again from a sound teacher, or give "
            "`allow_nonfinite=True`"
        )
