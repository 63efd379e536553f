"""What classifiers and embedders share: what they have not, and say so."""

import keras
import pytest
from tasks import tiny_task

from keras_t5gemma2 import T5Gemma2TextClassifier, T5Gemma2TextEmbedder

pytestmark = pytest.mark.once


@pytest.fixture(scope="module", params=["classifier", "embedder"])
def task(request):
    lm = tiny_task(vision=False)
    if request.param == "embedder":
        return T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor)
    return T5Gemma2TextClassifier(lm.backbone, 2, lm.preprocessor)


def test_what_only_models_have_that_write_text(task):
    for name in ("generate", "score", "sample_logits", "token_sums", "save_to_keras_hub_preset"):
        assert not hasattr(task, name)
    with pytest.raises(AttributeError, match="no `score`, which is for models that write text"):
        task.score(["a"])


def test_clones_are_refused_and_made_from_the_config(task):
    with pytest.raises(ValueError, match=r"`clone_model` would make a plain model.*from_config"):
        keras.models.clone_model(task)
    again = type(task).from_config(task.get_config())
    again.set_weights(task.get_weights())
    assert again.count_params() == task.count_params()


def test_an_embedder_has_no_functions_to_export(tmp_path):
    lm = tiny_task(vision=False)
    embedder = T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor)
    with pytest.raises(ValueError, match="generate or classify. Received: a T5Gemma2TextEmbedder"):
        embedder.export(tmp_path / "exported", "torch", batch_size=1, encoder_length=8)
