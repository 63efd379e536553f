"""What objects say of themselves: `summary()` and `repr`."""

import re

import pytest
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import CONFIG as VISION_CONFIG

from keras_t5gemma2 import BackboneConfig, StackConfig, TeacherSamples

pytestmark = pytest.mark.once


def test_configs_are_shown_in_short():
    stack = StackConfig(640, 2048, ONE_LAYER.encoder.layers * 3 + ONE_LAYER.decoder.layers * 15)
    assert "layers=<18: 3 full, 15 of window " in repr(stack)
    config = BackboneConfig(262_144, stack, stack, vision=VISION_CONFIG.vision)
    assert len(repr(config)) < 500
    assert repr(stack.layers[0]).startswith("AttentionConfig(num_heads=")


def test_adapters_and_samples_are_shown_in_short():
    lm = small_task()
    lm.enable_lora(rank=2, alpha=8, use_dora=True)
    query = lm.backbone.encoder.blocks[0].attention.query
    assert repr(query.adapters) == "{'default': <adapter of rank 2, scale 4, with magnitudes>}"
    samples = lm.sample_logits(SMALL_ROWS, num_samples=3)
    assert re.fullmatch(r"<TeacherSamples: 2 rows, \d+ tokens, 3 each>", repr(samples))
    assert isinstance(samples, TeacherSamples)
