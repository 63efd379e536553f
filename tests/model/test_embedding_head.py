"""The head of an embedder: pooled, cut and of the length 1, in this order."""

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.model.embedding_head import EmbeddingHead, checked_dimensions, shortened

pytestmark = pytest.mark.once


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dimensions", [None, 3])
def test_vectors_are_cut_before_they_are_normed(normalize, dimensions, rng):
    x = rng.standard_normal((2, 4, 7), "float32")
    head = EmbeddingHead("mean", normalize, dimensions)
    found = ops.convert_to_numpy(head(x, np.ones((2, 4))))
    want = x.mean(axis=1)[:, :dimensions]
    if normalize:
        want = want / np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        shortened(x.mean(axis=1), dimensions, normalize), want, rtol=1e-5, atol=1e-6
    )
    assert EmbeddingHead.from_config(head.get_config()).get_config() == head.get_config()


def test_dimensions_that_are_not_there_are_refused():
    assert checked_dimensions(np.int64(5), 5) == 5
    for value in (0, 6, True, "5"):
        with pytest.raises(ValueError, match="`dimensions` must be .* from 1 to 5.*dimensions="):
            checked_dimensions(value, 5)
