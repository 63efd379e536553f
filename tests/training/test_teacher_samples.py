"""What a teacher said of rows: parts of it by row, files, and numbers that are none."""

import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import TeacherSamples


def samples(lengths=(2, 0, 3), **options):
    ids = np.arange(2 * sum(lengths), dtype="int32").reshape(-1, 2)
    return TeacherSamples(ids, np.full(ids.shape, 0.5, "float32"), lengths, **options)


@pytest.mark.once
def test_samples_can_be_stored(tmp_path):
    drawn = small_task().sample_logits(SMALL_ROWS, num_samples=3)
    drawn.save(tmp_path / "samples.npz")
    again = TeacherSamples.load(tmp_path / "samples.npz")
    for row in range(2):
        for one, other in zip(again.of_row(row), drawn.of_row(row), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.once
def test_each_row_has_its_own_tokens():
    found = samples()
    assert [found.of_row(row)[0].tolist() for row in range(3)] == [
        [[0, 1], [2, 3]],
        [],
        [[4, 5], [6, 7], [8, 9]],
    ]
    assert found.of_row(2)[1].shape == (3, 2)
    assert (len(found), repr(found)) == (3, "<TeacherSamples: 3 rows, 5 tokens, 2 each>")


@pytest.mark.once
@pytest.mark.parametrize("source", [None, "somebody/model"])
def test_a_file_says_what_the_teacher_derives_from(tmp_path, source):
    samples(source=source).save(tmp_path / "samples.npz")
    again = TeacherSamples.load(tmp_path / "samples.npz")
    assert again.source == source and again.lengths.tolist() == [2, 0, 3]


@pytest.mark.once
def test_shapes_must_fit_together():
    ids, shares = np.zeros((3, 2), "int32"), np.zeros((3, 2), "float32")
    with pytest.raises(ValueError, match="lengths that add up to 4"):
        TeacherSamples(ids, shares, [1, 3])
    with pytest.raises(ValueError, match=r"probabilities of shape \(3, 1\)"):
        TeacherSamples(ids, shares[:, :1], [1, 2])


@pytest.mark.once
def test_probabilities_that_are_none_name_their_row_and_file(tmp_path):
    bad = samples()
    bad.probabilities[2, 1] = np.nan
    bad.probabilities[4, 0] = np.inf
    bad.save(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match=r"2 of 5 tokens.* first in row 2.* those of .*bad.npz"):
        TeacherSamples.load(tmp_path / "bad.npz")
    assert len(TeacherSamples.load(tmp_path / "bad.npz", allow_nonfinite=True)) == 3
