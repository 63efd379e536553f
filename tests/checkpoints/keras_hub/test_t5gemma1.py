"""Presets of keras-hub's own T5Gemma 1: the same numbers, both ways."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from keras_hub_models import SPM
from tasks_t5gemma1 import CONFIG
from tiny_models import randomize

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, T5GemmaBackbone, T5GemmaSeq2SeqLM, T5GemmaTokenizer
from keras_t5gemma2.checkpoints.keras_hub.t5gemma1 import (
    config_from_keras_hub,
    config_to_keras_hub,
)

_SLIDING, _FULL = "sliding_attention", "full_attention"
TOKENIZER = T5GemmaTokenizer(SPM)


def hub_task():
    sizes = ("hidden_dim", "intermediate_dim", "num_attention_heads", "num_key_value_heads")
    stacks = {"encoder": (28, 44, 4, 2), "decoder": (20, 36, 2, 1)}
    fields = {
        f"{s}_{name}": n for s, ns in stacks.items() for name, n in zip(sizes, ns, strict=True)
    }
    for stack in stacks:
        fields |= {f"{stack}_num_layers": 2, f"{stack}_head_dim": 8}
        fields[f"{stack}_layer_types"] = [_SLIDING, _FULL]
    backbone = keras_hub.models.T5GemmaBackbone(
        vocabulary_size=TOKENIZER.vocabulary_size(),
        **fields,
        sliding_window=5,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=11.0,
    )
    randomize(backbone)
    tokenizer = keras_hub.models.T5GemmaTokenizer(str(SPM))
    preprocessor = keras_hub.models.T5GemmaSeq2SeqLMPreprocessor(tokenizer)
    return keras_hub.models.T5GemmaSeq2SeqLM(backbone, preprocessor)


def logits_of(task):
    """Of rows within the window, which keras-hub's encoder has not."""
    rng = np.random.default_rng(1)
    arrays = {}
    for stack in ("encoder", "decoder"):
        ids = rng.integers(300, 400, size=(2, 5)).astype("int32")
        arrays |= {f"{stack}_token_ids": ids, f"{stack}_padding_mask": np.ones_like(ids)}
    return np.asarray(keras.Model.predict_on_batch(task, arrays))


@pytest.mark.once
def test_a_preset_both_ways(tmp_path):
    theirs = hub_task()
    want = logits_of(theirs)
    theirs.save_to_preset(str(tmp_path / "theirs"))
    ours = T5GemmaSeq2SeqLM.from_preset(tmp_path / "theirs")
    np.testing.assert_allclose(logits_of(ours), want, rtol=0, atol=1e-5)
    ours.save_to_keras_hub_preset(tmp_path / "ours")
    again = keras_hub.models.T5GemmaSeq2SeqLM.from_preset(str(tmp_path / "ours"))
    for one, other in zip(again.backbone.weights, theirs.backbone.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
    ids = again.preprocessor.tokenizer("seven")
    assert np.asarray(ids).tolist() == TOKENIZER("seven")
    assert T5GemmaBackbone.from_preset(tmp_path / "ours", encoder_only=True).decoder is None
    with pytest.raises(ValueError, match="For it there is `T5GemmaSeq2SeqLM`"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path / "theirs")
    with pytest.raises(ValueError, match="embeddings='mean'"):
        T5GemmaSeq2SeqLM.from_preset(tmp_path / "theirs", embeddings="mean")


@pytest.mark.once
def test_a_configuration_comes_back_or_is_refused():
    values = config_to_keras_hub(CONFIG)
    sizes = [key for key in values["config"] if key.startswith("encoder")]
    assert config_from_keras_hub(values).encoder.layers[0].window == 9 and len(sizes) == 7
    values["config"]["cross_attention_hidden_size"] = 5
    with pytest.raises(ValueError, match="cross_attention_hidden_size=5"):
        config_from_keras_hub(values)
