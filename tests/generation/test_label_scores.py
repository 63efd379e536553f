"""Log-probabilities of labels after hidden states, a chunk at a time."""

import numpy as np
import pytest
from keras import ops
from tasks import small_task

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation.label_scores import log_sums, scores_of_labels


@pytest.mark.once
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_scores_are_those_of_all_logits(rng, monkeypatch, chunk):
    lm = small_task()
    config = lm.backbone.config
    hidden = ops.convert_to_tensor(rng.normal(size=(9, config.hidden_dim)).astype("float32"))
    chosen = np.array([8, 0, 3, 3, 5], "int32")
    logits = ops.convert_to_numpy(lm.logits(hidden)).astype("float64")[chosen]
    labels = np.array([*logits.argmax(axis=1)[:2], 4, 5, 6], "int32")
    sums = np.log(np.exp(logits).sum(axis=1))
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 4 * config.vocabulary_size * chunk)
    shapes, of_model = [], type(lm).logits
    monkeypatch.setattr(
        type(lm), "logits", lambda self, x: shapes.append(x.shape[0]) or of_model(self, x)
    )
    places = ops.convert_to_tensor(chosen)
    found, is_greedy = scores_of_labels(lm.generator, hidden, places, labels)
    np.testing.assert_allclose(found, logits[np.arange(5), labels] - sums, atol=1e-5)
    assert is_greedy.tolist() == (logits.argmax(axis=1) == labels).tolist()
    np.testing.assert_allclose(log_sums(lm.generator, hidden, places), sums, rtol=1e-5)
    assert set(shapes) == {min(chunk, 32)}
