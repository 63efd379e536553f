"""Which module reads and writes a `config.json` of the reference."""

import pytest
from tasks_t5gemma1 import CONFIG as FIRST
from tiny_models import CONFIG as SECOND

from keras_t5gemma2.checkpoints.transformers import config, config_writer, t5gemma1
from keras_t5gemma2.checkpoints.transformers.generations import reader_of, writer_of

pytestmark = pytest.mark.once


def test_each_generation_has_its_own():
    assert reader_of({"model_type": "t5gemma"}) is t5gemma1
    assert reader_of({"model_type": "t5gemma2"}) is reader_of({}) is config
    assert writer_of(FIRST) is t5gemma1 and writer_of(FIRST.encoder_alone()) is t5gemma1
    assert writer_of(SECOND) is config_writer
