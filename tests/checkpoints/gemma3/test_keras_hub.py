"""Presets of keras-hub's Gemma 3 in both stacks: outputs, tokenizer, and presets that are none."""

import io
import json

import h5py
import keras_hub
import numpy as np
import pytest
import sentencepiece
from checkpoints import load_gemma3
from gemma3_presets import features, hub_backbone
from keras import ops
from reference_gemma3 import masked_encoder_logits

from keras_t5gemma2 import T5Gemma2Seq2SeqLM


@pytest.fixture
def images(rng):
    return rng.uniform(-1, 1, size=(3, 28, 28, 3)).astype("float32")


def hub_logits(backbone, ids):
    hidden = backbone.predict_on_batch({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    logits = backbone.token_embedding(ops.convert_to_tensor(hidden), reverse=True)
    return ops.convert_to_numpy(logits)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"global_rope_scaling_factor": 8.0, "final_logit_soft_cap": 3.0},
            marks=pytest.mark.once,
        ),
        {"num_layers": 2, "local_rope_scaling_factor": 2.0, "use_sliding_window_attention": False},
    ],
    ids=["windows", "full"],
)
def test_decoder_is_keras_hub_s_model(changes, rng, tmp_path):
    theirs = hub_backbone(**changes)
    theirs.save_to_preset(tmp_path)
    ids = rng.integers(0, 101, size=(2, 17)).astype("int32")
    backbone = load_gemma3(tmp_path)
    wanted = hub_logits(theirs, ids)
    np.testing.assert_allclose(masked_encoder_logits(backbone, ids), wanted, rtol=1e-5, atol=1e-5)
    windows = [layer.window for layer in backbone.config.decoder.layers]
    has_windows = "local_rope_scaling_factor" not in changes
    assert windows == ([6] * 5 + [None, 6] if has_windows else [None] * 2)


@pytest.mark.once
@pytest.mark.parametrize("is_sharded", [False, pytest.param(True, marks=pytest.mark.once)])
def test_preset_that_sees_images(is_sharded, images, tmp_path):
    theirs = hub_backbone(vision=True, num_layers=1)
    theirs.save_to_preset(tmp_path)
    if is_sharded:
        (tmp_path / "model.weights.h5").unlink()
        theirs.save_weights(tmp_path / "model.weights.json", max_shard_size=2e-5)
        assert len(list(tmp_path.glob("model_*.weights.h5"))) > 2
    backbone = load_gemma3(tmp_path)
    assert backbone.config.vision.tokens_per_image == 4
    wanted = theirs.vision_encoder.predict_on_batch(images[:, None])
    wanted = ops.convert_to_numpy(wanted).reshape(3, 4, 32)
    np.testing.assert_allclose(features(backbone, images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.once
def test_bfloat16_preset(tmp_path):
    theirs = hub_backbone(num_layers=1, dtype="bfloat16")
    theirs.save_to_preset(tmp_path)
    backbone = load_gemma3(tmp_path, dtype="bfloat16")
    wanted = ops.convert_to_numpy(ops.cast(theirs.token_embedding.embeddings, "float32"))
    got = ops.convert_to_numpy(ops.cast(backbone.token_embedding.embeddings, "float32"))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.once
def test_task_of_a_preset_has_its_tokenizer(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat", "a dog in the house"]),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        model_type="BPE",
        minloglevel=3,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
        **{"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "unk_piece": "<unk>"},
        user_defined_symbols=["<start_of_image>", "<end_of_image>", "<img>", "<unused99>"],
    )
    tokenizer = keras_hub.models.Gemma3Tokenizer(model.getvalue())
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(
        tokenizer, image_converter=None, sequence_length=8
    )
    theirs = keras_hub.models.Gemma3CausalLM(preprocessor, hub_backbone(num_layers=1))
    theirs.save_to_preset(tmp_path)
    lm = T5Gemma2Seq2SeqLM.from_gemma3(tmp_path)
    ours = lm.preprocessor.tokenizer
    assert ours("a dog in the house") == [int(i) for i in tokenizer("a dog in the house")]
    assert lm.backbone.config.image_token_id == ours.image_token_id == 7
    # Its `sequence_length` is what training pads to; scaled positions are those of 131,072 tokens.
    caps = lm.preprocessor.encoder_sequence_length, lm.preprocessor.decoder_sequence_length
    assert caps == (131_072, 131_072)


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_query_key_norm": False}, "use_query_key_norm=False"),
        ({"use_post_ffw_norm": False}, "use_post_ffw_norm=False"),
        ({"attention_logit_soft_cap": 50.0}, r"attn_logit_softcapping=50\.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"num_layers": 2}, r"Missing \(13\): layers\.1\.input_layernorm\.weight"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_layers": 10**9}, "from 1 to 10000.*num_layers=1000000000"),
        ({"head_dim": None}, "head_dim=None"),
    ],
)
def test_other_presets_are_an_error(changes, message, hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        load_gemma3(path)


@pytest.fixture(scope="module")
def hub_preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub")
    hub_backbone(num_layers=1).save_to_preset(path)
    return path


@pytest.mark.once
def test_config_of_an_older_release(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    content = json.loads((path / "config.json").read_text())
    newer = ("is_embedding_model", "local_rope_scaling_factor", "use_bidirectional_attention")
    for key in newer:
        del content["config"][key]
    (path / "config.json").write_text(json.dumps(content))
    assert load_gemma3(path).config == load_gemma3(hub_preset).config


@pytest.mark.once
def test_preset_of_another_model_is_an_error(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    content = json.loads((path / "config.json").read_text())
    content["registered_name"] = "keras_hub>GemmaBackbone"
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="registered_name='keras_hub>GemmaBackbone'"):
        load_gemma3(path)


@pytest.mark.once
def test_preset_without_weights_is_an_error(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    weights = path / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.weights\.h5 is no whole weight file"):
        load_gemma3(path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"must be in model\.weights\.h5, or in shards"):
        load_gemma3(path)
    index = {"weight_map": {"/layers/x/vars": "../other.weights.h5"}}
    (path / "model.weights.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"'\.\./other\.weights\.h5'"):
        load_gemma3(path)


@pytest.mark.once
def test_quantized_preset_is_an_error(hub_preset, tmp_path):
    path = _changed(hub_preset, tmp_path, {})
    with h5py.File(path / "model.weights.h5", "a") as file:
        del file["layers/rms_normalization/vars/0"]
        file["layers/rms_normalization/vars/0"] = np.ones(32, "int8")
    with pytest.raises(ValueError, match=r"rms_normalization/vars/0 of type int8"):
        load_gemma3(path)


def _changed(preset, target, changes):
    """A copy of a preset with some values of its config replaced."""
    (target / "model.weights.h5").write_bytes((preset / "model.weights.h5").read_bytes())
    content = json.loads((preset / "config.json").read_text())
    content["config"] |= changes
    (target / "config.json").write_text(json.dumps(content))
    return target
