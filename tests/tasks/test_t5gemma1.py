"""Tasks of T5Gemma 1: everything that those of T5Gemma 2 do, without images."""

import keras
import keras_hub
import numpy as np
import peft
import pytest
import torch
import transformers
from gradients import relative_error
from keras import ops
from reference_t5gemma1 import load_ours, text_inputs, tiny_t5gemma1
from tasks import SMALL_ROWS
from tasks_t5gemma1 import t5gemma1_task

import keras_t5gemma2
from keras_t5gemma2 import (
    T5Gemma2Seq2SeqLM,
    T5Gemma2TextClassifier,
    T5GemmaBackbone,
    T5GemmaSeq2SeqLM,
    T5GemmaSeq2SeqLMPreprocessor,
    T5GemmaTextClassifier,
    T5GemmaTextEmbedder,
    T5GemmaTokenClassifier,
)
from keras_t5gemma2.planning.plan import plan
from keras_t5gemma2.planning.work import Work
from keras_t5gemma2.preprocessing.chat_template import turn_end

TEXT = "the cat is in the garden"
NEW_TOKENS = 17  # more than three windows


def values(model):
    return {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}


def check_same_weights(one, other):
    one, other = values(one), values(other)
    assert set(one) == set(other)
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], err_msg=path)


@pytest.fixture(scope="module")
def lm():
    return t5gemma1_task()


@pytest.fixture(scope="module")
def pair():
    reference = tiny_t5gemma1()
    lm = T5GemmaSeq2SeqLM(load_ours(reference))
    lm.compile(sampler="greedy")
    return reference, lm


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("shared", 7),
        pytest.param("projected", 7, marks=pytest.mark.once),
        pytest.param("shared", 1, marks=pytest.mark.once),
    ],
)
def test_greedy_tokens_are_those_of_the_reference(pair, kind, length):
    reference, lm = pair
    inputs = text_inputs(decoder_length=length)
    inputs["decoder_token_ids"][:, 0] = 2
    lm.cross_attention_cache = kind
    got = lm.generate(inputs, stop_token_ids=None, max_new_tokens=NEW_TOKENS)
    with torch.no_grad():
        want = reference.generate(
            input_ids=torch.tensor(inputs["encoder_token_ids"]),
            attention_mask=torch.tensor(inputs["encoder_padding_mask"]),
            decoder_input_ids=torch.tensor(inputs["decoder_token_ids"]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            bos_token_id=2,
            decoder_start_token_id=2,
            pad_token_id=0,
            eos_token_id=None,
        ).numpy()
    ids, mask = got["decoder_token_ids"], got["decoder_padding_mask"]
    assert mask.sum(axis=1).tolist() == [length + NEW_TOKENS] * 3
    np.testing.assert_array_equal(ids[:, : length + NEW_TOKENS], want)


@pytest.mark.once
def test_every_way_to_generate(lm):
    options = {"max_new_tokens": 8, "stop_token_ids": None}
    want = lm.generate(TEXT, **options)
    for kind in ("projected", "shared"):
        assert lm.generate(TEXT, cross_attention_cache=kind, **options) == want
        lm.cache_dtype = "int8"
        assert isinstance(lm.generate(TEXT, cross_attention_cache=kind, **options), str)
        lm.cache_dtype = "auto"
    assert "".join(lm.stream(TEXT, **options)) == want
    for assistant in ("prompt_lookup", t5gemma1_task()):
        assert lm.generate(TEXT, assistant=assistant, **options) == want
    assert lm.generate(TEXT, num_beams=1, **options) == want
    assert len(lm.generate(TEXT, num_beams=3, num_return_sequences=2, **options)) == 2
    assert lm.generate({"decoder_text": [""]}, encoded=lm.encode(TEXT), **options) == [want]


@pytest.mark.once
def test_training_lowers_the_loss_and_adapters_train_beside_it():
    lm = t5gemma1_task()
    lm.compile(optimizer=keras.optimizers.SGD(0.3), sampler="greedy")
    losses = lm.fit(SMALL_ROWS, batch_size=2, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.2
    before = lm.score(SMALL_ROWS)
    lm.enable_lora(rank=2)
    assert {path.rpartition("/")[0] for path in map(_path, lm.trainable_variables)} >= {
        "decoder/layer_1/cross_attention/key",
        "encoder/layer_0/attention/query",
    }
    np.testing.assert_allclose(lm.score(SMALL_ROWS), before, rtol=1e-5)
    lm.compile(optimizer=keras.optimizers.SGD(0.3), sampler="greedy")
    lm.fit(SMALL_ROWS, batch_size=2, epochs=2, verbose=0)
    assert lm.score(SMALL_ROWS).sum() > before.sum()


def _path(variable):
    return variable.path


@pytest.mark.once
def test_an_adapter_goes_to_peft_and_back(tmp_path):
    lm = t5gemma1_task()
    lm.enable_lora(rank=2)
    rng = np.random.default_rng(0)
    for variable in lm.trainable_variables:
        variable.assign(0.3 * rng.normal(size=variable.shape))
    lm.save_peft_adapter(tmp_path / "adapter")
    lm.export_to_transformers(tmp_path / "base", adapters="peft")
    base = transformers.T5GemmaForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    inputs = text_inputs(5, 6)
    with torch.no_grad():
        want = model(
            input_ids=torch.tensor(inputs["encoder_token_ids"]),
            decoder_input_ids=torch.tensor(inputs["decoder_token_ids"]),
        ).logits.numpy()
    got = keras.Model.predict_on_batch(lm, lm.backbone.complete(inputs))
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-5)
    again = T5GemmaSeq2SeqLM.from_preset(tmp_path / "base")
    again.load_peft_adapter(tmp_path / "adapter")
    got = keras.Model.predict_on_batch(again, again.backbone.complete(inputs))
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-5)


@pytest.mark.once
def test_a_preset_and_the_classes_that_load_it(tmp_path, lm):
    lm.save_to_preset(tmp_path)
    again = T5GemmaSeq2SeqLM.from_preset(tmp_path)
    assert type(again.backbone) is T5GemmaBackbone
    assert type(again.preprocessor) is T5GemmaSeq2SeqLMPreprocessor
    check_same_weights(again, lm)
    assert type(keras_hub.models.Seq2SeqLM.from_preset(str(tmp_path))) is T5GemmaSeq2SeqLM
    alone = T5GemmaBackbone.from_preset(tmp_path, encoder_only=True)
    assert alone.decoder is None and alone.decoder_embedder is None
    for name in ("Backbone", "Seq2SeqLM", "Tokenizer", "Seq2SeqLMPreprocessor", "TextEmbedder"):
        wrong = getattr(keras_t5gemma2, f"T5Gemma2{name}")
        with pytest.raises(ValueError, match=f"a T5Gemma 1. For it there is `T5Gemma{name}`"):
            wrong.from_preset(tmp_path)
    with pytest.raises(ValueError, match="For it there is `T5GemmaTextClassifier`"):
        T5Gemma2TextClassifier(lm.backbone, num_classes=2)
    with pytest.raises(ValueError, match="For it there is `T5Gemma2Seq2SeqLM`"):
        T5GemmaSeq2SeqLM.from_preset("t5gemma2_tiny")
    with pytest.raises(ValueError, match="For it there is `T5GemmaSeq2SeqLM`"):
        T5Gemma2Seq2SeqLM.from_preset("t5gemma_9b_9b_prefixlm_it")  # before any download
    with pytest.raises(ValueError, match="For it there is `T5Gemma2Seq2SeqLM`"):
        T5GemmaSeq2SeqLM.from_gemma3("nowhere.gguf")


@pytest.mark.once
def test_files_of_the_reference_both_ways(tmp_path, lm):
    lm.export_to_transformers(tmp_path)
    cls = transformers.T5GemmaForConditionalGeneration
    model, found = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values()), found
    again = T5GemmaSeq2SeqLM.from_preset(tmp_path)
    assert again.backbone.config == lm.backbone.config
    check_same_weights(again, lm)
    model.save_pretrained(tmp_path / "theirs")
    check_same_weights(T5GemmaBackbone.from_preset(tmp_path / "theirs"), lm.backbone)


@pytest.mark.once
def test_heads_of_the_reference_both_ways(tmp_path, lm):
    inputs = text_inputs(5, 5)
    ids = torch.tensor(inputs["encoder_token_ids"])
    for cls, name in (
        (T5GemmaTextClassifier, "T5GemmaForSequenceClassification"),
        (T5GemmaTokenClassifier, "T5GemmaForTokenClassification"),
    ):
        head = cls(t5gemma1_task().backbone, num_classes=3, preprocessor=lm.preprocessor)
        head.export_to_transformers(tmp_path / name)
        model, found = getattr(transformers, name).from_pretrained(
            tmp_path / name, attn_implementation="eager", output_loading_info=True
        )
        assert not any(found.values()), found
        with torch.no_grad():
            want = model.eval()(input_ids=ids).logits.numpy()
        arrays = {k: v for k, v in inputs.items() if k.startswith("encoder")}
        got = keras.Model.predict_on_batch(head, arrays)
        np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-5)
        check_same_weights(cls.from_preset(tmp_path / name), head)


@pytest.mark.once
def test_an_embedder_is_the_reference_s_encoder(tmp_path, lm):
    lm.save_to_preset(tmp_path / "whole")
    embedder = T5GemmaTextEmbedder.from_preset(tmp_path / "whole")
    assert embedder.backbone.decoder is None
    embedder.export_to_transformers(tmp_path)
    cls = transformers.T5GemmaEncoderModel
    model, found = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values()), found
    (vector,) = embedder.encode_text(["the cat"])
    tokens = lm.preprocessor.generate_preprocess(["the cat"])
    seen = tokens["encoder_padding_mask"][0].astype(bool)
    with torch.no_grad():
        ids = torch.tensor(tokens["encoder_token_ids"][:, seen])
        want = model(input_ids=ids).last_hidden_state.mean(dim=1).numpy()[0]
    np.testing.assert_allclose(vector, want / np.linalg.norm(want), rtol=0, atol=1e-5)
    again = T5GemmaTextEmbedder.from_preset(tmp_path)
    np.testing.assert_allclose(again.encode_text(["the cat"])[0], vector, rtol=0, atol=1e-6)


@pytest.mark.once
def test_integers_and_another_vocabulary(tmp_path):
    lm = t5gemma1_task()
    exact = lm.score(SMALL_ROWS)
    grown = lm.extend_vocabulary(["<more>", "<most>"])
    np.testing.assert_allclose(grown.score(SMALL_ROWS), exact, atol=0.1)
    tables = (grown.backbone.embedder.table, grown.backbone.decoder_embedder.table)
    assert len({table.embeddings.shape[0] for table in tables}) == 1
    small = lm.prune_vocabulary(SMALL_ROWS["encoder_text"] + SMALL_ROWS["decoder_text"])
    assert small.backbone.config.vocabulary_size < lm.backbone.config.vocabulary_size
    assert (small.score(SMALL_ROWS) >= exact - 1e-3).all()  # fewer tokens share the rest
    lm.quantize("int8")
    modes = lm.backbone.quantized_layers
    assert {"embedder/table", "decoder_embedder/table"} < set(modes)
    assert "decoder/layer_0/cross_attention/key" in modes
    assert relative_error(lm.score(SMALL_ROWS), exact) < 0.05
    lm.save_to_preset(tmp_path)
    again = T5GemmaSeq2SeqLM.from_preset(tmp_path)
    np.testing.assert_allclose(again.score(SMALL_ROWS), lm.score(SMALL_ROWS), rtol=1e-5)


@pytest.mark.once
def test_a_dialogue_ends_with_the_turn(lm):
    end = turn_end(lm.preprocessor)
    tokenizer = lm.preprocessor.tokenizer
    assert end.text == "<end_of_turn>"
    assert end.stop_token_ids == (tokenizer.end_of_turn_token_id, tokenizer.end_token_id)
    assert isinstance(lm.chat("the cat", max_new_tokens=3), str)
    with pytest.raises(ValueError, match="System role not supported"):
        lm.chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])


@pytest.mark.once
def test_the_decoder_s_attention_as_numbers(lm):
    found = lm.attention("the cat", output="a dog")
    for weights in (found.past, found.encoder):  # each a softmax of its own
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.once
def test_a_plan_counts_every_weight(lm):
    config = lm.backbone.config
    assert plan(config, Work(dtype="float32")).weights == 4 * lm.count_params()
    of_training = plan("t5gemma_9b_2b_ul2_it", Work("lora"))
    assert 2 * 12_292_375_296 < of_training.weights < of_training.total


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(keras.config.backend() == "jax", reason="formats of torch and TensorFlow")
def test_an_exported_model_generates(tmp_path, lm):
    format = {"torch": "torch", "tensorflow": "tf_saved_model"}[keras.config.backend()]
    sizes = {"batch_size": 1, "encoder_length": 8, "decoder_length": 6}
    lm.export(tmp_path / "model", format=format, **sizes)
    assert any((tmp_path / "model").iterdir())
