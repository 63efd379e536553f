"""Tasks with smaller and larger vocabularies: tokens, logits, files, adapters, settings."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, TOKENIZER, small_task, tiny_task

import keras_t5gemma2
from keras_t5gemma2.preprocessing.denoising_preprocessor import T5Gemma2DenoisingPreprocessor

ROWS = {
    "encoder_text": ["Spell 42 in German.", "Write 2026-12-17 in French.", "Spell 4268 in German."],
    "decoder_text": ["zweiundvierzig", "17 décembre 2026", "viertausendzweihundertachtundsechzig"],
}
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_image>", "<end_of_image>")
SPECIAL += ("<image_soft_token>", "<start_of_turn>", "<end_of_turn>")


@pytest.fixture(scope="module")
def embedded():
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture(scope="module")
def small(embedded):
    return embedded.prune_vocabulary(ROWS)


def logits(lm, x):
    return ops.convert_to_numpy(lm(x))


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 3), "uint8")


def check_same(lm, small, rows, atol=1e-5):
    """Ids, and logits of all kept tokens, of rows of kept tokens."""
    kept = small.pruning.kept_ids
    x, _, weights = lm.preprocessor(rows)
    y, _, _ = small.preprocessor(rows)
    for name in x:
        np.testing.assert_array_equal(kept[y[name]] if "ids" in name else y[name], x[name])
    want, got = logits(lm, x)[..., kept], logits(small, y)
    np.testing.assert_allclose(got[weights > 0], want[weights > 0], atol=atol)


@pytest.mark.once
def test_kept_tokens_have_the_same_ids_and_logits(embedded, small):
    assert small is not embedded and small.backbone is not embedded.backbone
    size = small.backbone.config.vocabulary_size
    assert size == small.preprocessor.tokenizer.vocabulary_size() == len(small.pruning.kept_ids)
    assert size < embedded.backbone.config.vocabulary_size / 4
    check_same(embedded, small, ROWS)
    assert small.generate(ROWS["encoder_text"], max_new_tokens=32) == ROWS["decoder_text"]


@pytest.mark.once
def test_the_model_itself_stays_as_it_was(embedded, small):
    assert embedded.preprocessor.tokenizer.vocabulary_size() == 2560
    assert embedded.backbone.config.vocabulary_size == 2560 and embedded.pruning is None
    ours = {id(variable) for variable in embedded.variables}
    assert not ours & {id(variable) for variable in small.variables}


@pytest.mark.once
def test_special_image_turn_and_byte_tokens_stay(embedded):
    tokenizer = embedded.prune_vocabulary(keep=[]).preprocessor.tokenizer
    for token in (*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "<unused6237>"):
        assert tokenizer.id_to_token(tokenizer.token_to_id(token)) == token
    text = "<start_of_turn>user\nΩ 日本 <end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.detokenize(tokenizer(text)) == text
    before = embedded.preprocessor.tokenizer
    for words in ("<start_of_turn>model\n", "\n\n<start_of_image>", "Here is the original image"):
        assert tokenizer.detokenize(tokenizer(words)) == words
        assert [*map(tokenizer.id_to_token, tokenizer(words))] == [
            *map(before.id_to_token, before(words))
        ]


@pytest.mark.once
def test_ids_to_keep_come_with_what_they_are_merged_of(embedded):
    tokenizer = embedded.preprocessor.tokenizer
    word = max(tokenizer.get_vocabulary(), key=lambda token: len(token) * token.isalpha())
    small = embedded.prune_vocabulary(keep=np.array([tokenizer.token_to_id(word)]))
    assert len(small.preprocessor.tokenizer(word)) == 1
    assert (np.diff(small.pruning.kept_ids) > 0).all()


@pytest.mark.once
def test_images_are_seen_as_before():
    lm = tiny_task()
    rows = {
        "encoder_text": ["<start_of_image> a dog", "the cat"],
        "images": [[images(1)[0]], []],
        "decoder_text": ["a red bee", "what is this"],
    }
    small = lm.prune_vocabulary(rows)
    config = small.backbone.config
    assert config.vocabulary_size < lm.backbone.config.vocabulary_size
    assert config.image_token_id == small.preprocessor.tokenizer.image_token_id
    assert config.end_of_image_token_id == small.preprocessor.tokenizer.end_of_image_token_id
    check_same(lm, small, rows)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.once
def test_a_quantized_model_keeps_its_integers(mode):
    lm = small_task()
    lm.quantize(mode)
    small = lm.prune_vocabulary(SMALL_ROWS)
    assert small.backbone.quantized_layers == lm.backbone.quantized_layers
    check_same(lm, small, SMALL_ROWS)
    larger = small.extend_vocabulary(["Katze"])
    assert np.isfinite(logits(larger, larger.preprocessor(SMALL_ROWS)[0])).all()


@pytest.mark.once
def test_half_precision_stays_to_the_bit():
    lm = small_task(dtype="bfloat16")
    small = lm.prune_vocabulary(SMALL_ROWS)
    assert small.backbone.compute_dtype == "bfloat16"
    check_same(lm, small, SMALL_ROWS, atol=1e-2)
    values = ops.convert_to_numpy(ops.cast(small.backbone.token_embedding.embeddings, "float32"))
    before = ops.convert_to_numpy(ops.cast(lm.backbone.token_embedding.embeddings, "float32"))
    np.testing.assert_array_equal(values, before[small.pruning.kept_ids])


@pytest.mark.once
def test_adapters_come_along_and_their_files_fit_both(tmp_path):
    lm = small_task(learning_rate=0.1)
    lm.enable_lora(rank=2, name="one", target=["query", "up"])
    lm.enable_lora(rank=3, name="two")
    lm.fit(SMALL_ROWS, epochs=2, verbose=0)
    lm.set_adapter({"one": 0.5, "two": 1.0})
    small = lm.prune_vocabulary(SMALL_ROWS)
    assert small.adapters == lm.adapters and small.active_adapter == lm.active_adapter
    check_same(lm, small, SMALL_ROWS)
    lm.save_adapter(tmp_path / "two.safetensors", "two")
    lm.set_adapter("two")
    other = lm.prune_vocabulary(SMALL_ROWS)
    for name in list(other.adapters):
        other.remove_adapter(name)
    other.load_adapter(tmp_path / "two.safetensors", "two")
    check_same(lm, other, SMALL_ROWS)
    other.fit(SMALL_ROWS, verbose=0)


@pytest.mark.once
def test_merged_adapters_become_a_part_of_the_weights():
    lm = small_task(learning_rate=0.1)
    lm.enable_lora(rank=2)
    lm.fit(SMALL_ROWS, epochs=2, verbose=0)
    lm.merge_adapter()
    small = lm.prune_vocabulary(SMALL_ROWS)
    assert small.adapters == {}
    check_same(lm, small, SMALL_ROWS)
    small.fit(SMALL_ROWS, verbose=0)


@pytest.mark.once
def test_a_smaller_model_is_trained_and_saved_like_any_other(tmp_path):
    small = small_task().prune_vocabulary(SMALL_ROWS)
    history = small.fit(SMALL_ROWS, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    small.save_to_preset(tmp_path)
    again = type(small).from_preset(tmp_path)
    x, _, _ = small.preprocessor(SMALL_ROWS)
    np.testing.assert_allclose(logits(again, x), logits(small, x), atol=1e-6)
    assert again.preprocessor.tokenizer.get_vocabulary() == (
        small.preprocessor.tokenizer.get_vocabulary()
    )


@pytest.mark.once
@pytest.mark.parametrize("change", ["prune", "extend"])
def test_what_is_exported_comes_back_and_is_what_others_read(embedded, change, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    made = embedded.prune_vocabulary(ROWS)
    if change == "extend":
        made = made.extend_vocabulary(["Katze", "décembre"])
    text = "Spell 42 in German. Katze décembre"
    made.export_to_transformers(tmp_path / "hf")
    again = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(tmp_path / "hf")
    again.compile(sampler="greedy")
    assert again.backbone.config == made.backbone.config
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    tokenizer = made.preprocessor.tokenizer
    for other in (again.preprocessor.tokenizer, processor.tokenizer):
        ids = other(text) if other is not processor.tokenizer else other(text)["input_ids"][1:]
        assert ids == tokenizer(text)
    x, _, _ = made.preprocessor({"encoder_text": [text], "decoder_text": ["zwei"]})
    want = logits(made, x)
    np.testing.assert_allclose(logits(again, x), want, atol=1e-6)
    import torch

    length = int(x["encoder_padding_mask"].sum())
    with torch.no_grad():
        outputs = model(
            input_ids=torch.tensor(x["encoder_token_ids"][:, :length]),
            decoder_input_ids=torch.tensor(x["decoder_token_ids"]),
        )
    seen = x["decoder_padding_mask"][0].astype(bool)
    np.testing.assert_allclose(outputs.logits[0].numpy()[seen], want[0][seen], atol=1e-3)
    assert model.config.decoder.eos_token_id == tokenizer.end_token_id
    if change == "extend":
        assert len(tokenizer("Katze")) == len(tokenizer("décembre")) == 1


@pytest.mark.once
@pytest.mark.parametrize("change", ["prune", "extend"])
def test_keras_hubs_own_model_reads_it(embedded, change, tmp_path):
    import keras_hub

    made = embedded.prune_vocabulary(ROWS)
    if change == "extend":
        made = embedded.extend_vocabulary(["Katze"])
    made.save_to_keras_hub_preset(tmp_path)
    again = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    assert again.backbone.config == made.backbone.config
    tokenizer = keras_hub.models.T5Gemma2Tokenizer.from_preset(str(tmp_path))
    text = "Spell 42 in German. Katze"
    assert list(ops.convert_to_numpy(tokenizer(text))) == made.preprocessor.tokenizer(text)
    assert again.preprocessor.tokenizer(text) == made.preprocessor.tokenizer(text)


@pytest.mark.once
def test_new_tokens_start_as_the_mean_of_what_spelled_them(embedded):
    tokenizer = embedded.preprocessor.tokenizer
    larger = embedded.extend_vocabulary(["tokenizer", "日本"])
    before = ops.convert_to_numpy(embedded.backbone.token_embedding.embeddings)
    after = ops.convert_to_numpy(larger.backbone.token_embedding.embeddings)
    np.testing.assert_array_equal(after[:-2], before)
    for row, token in zip(after[-2:], ["tokenizer", "日本"], strict=True):
        np.testing.assert_allclose(row, before[tokenizer(token)].mean(axis=0), atol=1e-6)
    assert larger.preprocessor.tokenizer("日本") == [2561]
    x, _, _ = embedded.preprocessor(ROWS)
    want, got = logits(embedded, x), logits(larger, x)
    np.testing.assert_allclose(got[..., :-2], want, atol=1e-5)
    assert larger.generate(ROWS["encoder_text"], max_new_tokens=32) == ROWS["decoder_text"]


@pytest.mark.once
def test_new_tokens_get_given_rows_and_learn():
    lm = small_task()
    rows = np.random.default_rng(0).normal(size=(1, 28)).astype("float32")
    larger = lm.extend_vocabulary(["Katze"], init=rows)
    table = ops.convert_to_numpy(larger.backbone.token_embedding.embeddings)
    np.testing.assert_array_equal(table[-1:], rows)
    larger.fit((["the cat"], ["a Katze"]), epochs=20, verbose=0)
    assert larger.generate("the cat", max_new_tokens=4) == "a Katze"


@pytest.mark.once
def test_rows_of_the_table_that_no_token_has_go():
    """Published tables have some more rows than the tokenizer has tokens."""
    lm = small_task()
    size = lm.backbone.config.vocabulary_size
    config = dataclasses.replace(lm.backbone.config, vocabulary_size=size + 3)
    longer = type(lm)(type(lm.backbone)(config), lm.preprocessor)
    assert longer.extend_vocabulary(["Katze"]).backbone.config.vocabulary_size == size + 1
    small = longer.prune_vocabulary(SMALL_ROWS)
    assert small.backbone.config.vocabulary_size == len(small.pruning.kept_ids) < size


@pytest.mark.slow
@pytest.mark.once
def test_the_size_and_the_languages_say_how_many_tokens_are_kept(embedded):
    everything = embedded.prune_vocabulary(ROWS).pruning.tokens_after
    for less in (1, 5, 9):
        few = embedded.prune_vocabulary(ROWS, size=everything - less)
        assert everything - less - 9 < few.pruning.tokens_after <= everything - less
    german = embedded.prune_vocabulary(languages=["de"])
    both = embedded.prune_vocabulary(languages=["de", "ru"])
    tokenizer = embedded.preprocessor.tokenizer
    kept = [set(lm.pruning.kept_ids.tolist()) for lm in (german, both)]
    assert tokenizer.token_to_id("ü") in kept[0] and tokenizer.token_to_id("ж") in kept[1] - kept[0]
    assert kept[0] < kept[1]
    assert set(tokenizer("und die Zeit")) <= kept[0]
    with pytest.raises(ValueError, match="`size` must be at least .*size=3"):
        embedded.prune_vocabulary(ROWS, size=3)


@pytest.mark.once
def test_settings_and_what_it_was_compiled_with_come_along():
    lm = small_task()
    lm.cross_attention_cache, lm.cache_dtype = "shared", "int8"
    lm.compile(keras.optimizers.SGD(0.25), sampler="top_p", weighted_metrics=None)
    lm.fit(SMALL_ROWS, verbose=0)
    small = lm.prune_vocabulary(SMALL_ROWS)
    assert (small.cross_attention_cache, small.cache_dtype) == ("shared", "int8")
    assert type(small.sampler) is type(lm.sampler) and small.sampler is not lm.sampler
    assert float(small.optimizer.learning_rate) == 0.25 and small.optimizer is not lm.optimizer
    assert len(small.token_loss.metrics) == 1
    ours, theirs = small.preprocessor, lm.preprocessor
    assert ours.encoder_sequence_length == theirs.encoder_sequence_length
    small.fit(SMALL_ROWS, verbose=0)


@pytest.mark.once
def test_a_loss_that_cannot_be_copied_is_said():
    lm = small_task()
    lm.compile("sgd", loss=lambda y, z: 0.0, sampler="greedy")
    with pytest.warns(UserWarning, match="has the sampler of the old one.*Call `compile`"):
        small = lm.prune_vocabulary(SMALL_ROWS)
    assert type(small.sampler) is type(lm.sampler)


@pytest.mark.once
def test_sentinels_stay_where_they_are_needed(embedded):
    tokenizer = embedded.preprocessor.tokenizer
    preprocessor = T5Gemma2DenoisingPreprocessor(tokenizer)
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.preprocessor = preprocessor
    small = lm.prune_vocabulary(["some text to take words out of"])
    assert small.preprocessor.sentinels == preprocessor.sentinels
    assert type(small.preprocessor) is T5Gemma2DenoisingPreprocessor


@pytest.mark.once
def test_dialogues_count_as_a_template_writes_them():
    lm = tiny_task()
    lm.preprocessor.set_lengths(encoder_sequence_length=64)
    messages = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "a dog"}]
    lm.preprocessor.chat_template = (
        "{% for m in messages %}house{{ m.role }}: {{ m.content }}<unused0>{% endfor %}"
    )
    small = lm.prune_vocabulary({"messages": [messages]}, held_out=[messages])
    losses = small.pruning.losses
    assert losses.texts == losses.texts_unchanged == 2 and losses.tokens_lost == 0
    assert set(lm.preprocessor.tokenizer("house")) <= set(small.pruning.kept_ids)
    asked = {"add_generation_prompt": False, "tokenize": True}
    small = lm.prune_vocabulary(["no dialogue"])  # the wording of the template is kept
    tokens = [
        [task.preprocessor.tokenizer.id_to_token(id) for id in row]
        for task in (small, lm)
        for row in task.preprocessor.apply_chat_template([messages], **asked)
    ]
    assert tokens[0][:6] == tokens[1][:6] and tokens[0][:2] == ["hou", "se"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "One of `texts`, `languages` and `keep`"),
        ({"keep": [3, 10**6, True]}, ValueError, "ids of the vocabulary.*1000000, True"),
        ({"keep": "the"}, TypeError, "`keep` must be a list of token ids. Received: keep='the'"),
        ({"keep": [1], "size": "many"}, ValueError, "number of tokens.*size='many'"),
        ({"keep": [1], "size": 0}, ValueError, "number of tokens.*size=0"),
    ],
)
def test_what_cannot_be_kept_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        small_task().prune_vocabulary(**options)


@pytest.mark.once
def test_rows_that_cannot_be_new_ones_are_refused():
    lm = small_task()
    for init, text in (
        ("zeros", r'"mean", or an array of floats of shape \(1, 28\).*init=\'zeros\''),
        (np.zeros((2, 28)), r"an array of shape \(2, 28\)"),
        (np.full((1, 28), np.nan), "must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            lm.extend_vocabulary(["Katze"], init=init)
    lm.preprocessor = None
    for change in (lambda: lm.extend_vocabulary(["a"]), lambda: lm.prune_vocabulary(keep=[1])):
        with pytest.raises(ValueError, match="with a preprocessor. Received: preprocessor=None"):
            change()


@pytest.mark.once
def test_one_tokenizer_serves_many_tasks():
    """What is changed is the copy of the new model."""
    small_task().extend_vocabulary(["Katze"])
    assert len(TOKENIZER("Katze")) > 1
