"""keras-hub's calls for LoRA on a backbone, which are those of its task."""

import numpy as np
import pytest
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import tiny_backbone
from tolerances import TOLERANCE

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.once


def logits(lm):
    return lm.predict(SMALL_ROWS, verbose=0)


def test_keras_hubs_calls_on_a_backbone_are_those_of_its_task(tmp_path):
    lm = small_task()
    lm.backbone.enable_lora(3)
    assert lm.adapters["default"]["rank"] == 3 and lm.adapters["default"]["target"] == "text"
    losses = lm.fit(SMALL_ROWS, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    lm.backbone.save_lora_weights(tmp_path / "a.lora.h5")
    other = small_task()
    other.backbone.load_lora_weights(tmp_path / "a.lora.h5")
    np.testing.assert_allclose(logits(other), logits(lm), **TOLERANCE["float32"])
    assert other.active_adapter == "default"


def test_a_backbone_alone_has_no_adapters():
    backbone = tiny_backbone(ONE_LAYER)
    for method, argument in (
        ("enable_lora", 4),
        ("save_lora_weights", "a.lora.h5"),
        ("load_lora_weights", "a.lora.h5"),
    ):
        with pytest.raises(ValueError, match=f"call of `{method}` of a backbone that is part of"):
            getattr(backbone, method)(argument)
    with pytest.raises(ValueError, match="of the layer encoder/layer_0/attention/query"):
        backbone.encoder.blocks[0].attention.query.enable_lora(4)
    with pytest.raises(ValueError, match="The names in `target`"):
        T5Gemma2Seq2SeqLM(backbone).backbone.enable_lora(2, ["query_dense"])
