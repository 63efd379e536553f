"""What every task has: its parts, its config, and what it is called with."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import ONE_LAYER, TOKENIZER, small_task
from tiny_models import tiny_backbone, token_inputs

from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
)

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    return small_task()


def test_a_config_makes_the_same_task_again(lm):
    again = T5Gemma2Seq2SeqLM.from_config(lm.get_config())
    assert again.get_config() == lm.get_config()
    assert again.backbone.config == lm.backbone.config
    assert again.preprocessor.decoder_sequence_length == 9
    assert [w.shape for w in again.weights] == [w.shape for w in lm.weights]


def test_a_config_holds_adapters_and_which_is_active():
    lm = small_task()
    assert (lm.adapters, lm.active_adapter) == ({}, None)
    lm.enable_lora(rank=2, name="mine")
    again = T5Gemma2Seq2SeqLM.from_config(lm.get_config())
    assert again.active_adapter == "mine" and again.adapters == lm.adapters
    paths = [[v.path for v in task.trainable_variables] for task in (again, lm)]
    assert paths[0] == paths[1] and all("lora" in path or "adapter" in path for path in paths[0])
    lm.merge_adapter()
    assert "adapters" not in lm.get_config()


def test_a_preprocessor_is_set_if_it_fits():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(ONE_LAYER))
    assert lm.preprocessor is None
    lm.preprocessor = T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER)
    assert lm.preprocessor.tokenizer is TOKENIZER
    with pytest.raises(ValueError, match="vocabulary"):
        T5Gemma2Seq2SeqLM(tiny_backbone()).preprocessor = T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER)


def test_parameters_are_counted_once(lm):
    assert lm.count_params() == sum(int(np.prod(w.shape)) for w in lm.weights)
    lines = []
    lm.summary(print_fn=lambda line, **options: lines.append(line))
    assert f"{lm.count_params():,}" in "\n".join(lines)


def test_a_call_takes_arrays_and_gives_logits(lm, rng):
    x = token_inputs(rng, (5, 3), (4, 2))
    assert tuple(lm(x).shape) == (2, 4, ONE_LAYER.vocabulary_size)
    symbols = {name: keras.KerasTensor((None, None), "int32") for name in x}
    spec = lm.compute_output_spec(symbols)
    assert spec.shape[-1] == ONE_LAYER.vocabulary_size


def test_a_preset_is_loaded_with_other_positions_and_keeps_them(rng, tmp_path):
    lm = small_task()
    lm.save_to_preset(tmp_path / "short")
    long = T5Gemma2Seq2SeqLM.from_preset(tmp_path / "short", rope_factor=32)
    assert [layer.rope_factor for layer in long.backbone.config.encoder.layers] == [32.0]
    assert lm.backbone.config.encoder.layers[0].rope_factor == 8.0
    # the model of these weights and that config, in both stacks
    same = T5Gemma2Backbone(lm.backbone.config.with_rope_factor(32))
    same.set_weights(lm.backbone.get_weights())
    inputs = token_inputs(rng, (9, 4), (5, 7))
    want = ops.convert_to_numpy(same(inputs)["encoder_sequence_output"])
    found = ops.convert_to_numpy(long.backbone(inputs)["encoder_sequence_output"])
    np.testing.assert_allclose(found, want, atol=1e-6)
    before = ops.convert_to_numpy(lm.backbone(inputs)["encoder_sequence_output"])
    assert np.abs(found - before).max() > 0.01
    long.save_to_preset(tmp_path / "long")
    again = T5Gemma2Backbone.from_preset(tmp_path / "long")
    assert again.config == same.config
    other = T5Gemma2Backbone.from_preset("t5gemma2_tiny", text_only=True, rope_factor=4)
    other.export_to_transformers(tmp_path / "reference")
    assert T5Gemma2Backbone.from_preset(tmp_path / "reference").config == other.config
    alone = T5Gemma2Backbone.from_preset(tmp_path / "short", rope_factor=2, encoder_only=True)
    assert (alone.decoder, alone.config.encoder.layers[0].rope_factor) == (None, 2.0)


@pytest.mark.parametrize("factor", [0, float("nan"), "8"])
def test_a_factor_that_is_none_is_refused_before_a_weight_is_read(factor):
    with pytest.raises((TypeError, ValueError), match=f"`rope_factor` must be .*{factor}"):
        T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", rope_factor=factor)
