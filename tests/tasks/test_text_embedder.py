"""Vectors of texts: against the reference, alone and in batches, saved, trained and exported."""

import keras
import keras_hub
import numpy as np
import pytest
import torch
import transformers
from keras import ops
from preprocessors import random_image
from tasks import tiny_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM, T5Gemma2TextEmbedder
from keras_t5gemma2.checkpoints.heads import own_head_tensors

PRESET = "t5gemma2_tiny"
TEXTS = ["Spell 7 in Dutch.", "a", "Write 2026-12-17 in French, please, and with the year."]
# The figure of the contract.
NEAR = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def embedder():
    return T5Gemma2TextEmbedder.from_preset(PRESET)


@pytest.fixture(scope="module")
def vectors(embedder):
    return embedder.encode_text(TEXTS)


def with_query(embedder):
    """Its query of attention, set to something."""
    query = embedder.head.pooling.query
    query.assign(np.random.default_rng(0).normal(size=query.shape))
    return embedder


def states_of_reference(directory, text):
    """(1, tokens, width) states of the reference's encoder, of one row without padding."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        found = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return [states.numpy() for states in found.hidden_states]


@pytest.mark.once
def test_vectors_are_those_of_the_reference(embedder, vectors, tmp_path):
    """Its encoder's states of the row alone, their mean by numpy, divided by its length."""
    embedder.export_to_transformers(tmp_path)
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = states_of_reference(tmp_path, text)
        mean = states[-1][0].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=0, atol=1e-6)
        for layer in (0, 1, -2, -1):
            ours, mask = embedder.hidden_states(text, layer)
            assert mask.all()
            # They grow to 30 or so.
            np.testing.assert_allclose(ours, states[layer], rtol=1e-5, atol=1e-5)


@pytest.mark.once
def test_a_row_has_one_vector_whatever_the_batch(embedder, vectors):
    assert vectors.dtype == np.float32 and vectors.shape == (3, embedder.width)
    np.testing.assert_allclose(embedder.encode_text(TEXTS[1]), vectors[1:2], **NEAR)
    np.testing.assert_allclose(embedder.encode_text(TEXTS, batch_size=2), vectors, **NEAR)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cut = embedder.encode_text(TEXTS, dimensions=32)
    want = vectors[:, :32] / np.linalg.norm(vectors[:, :32], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, want, **NEAR)
    similarities = embedder.similarity(vectors, 3 * vectors)
    np.testing.assert_allclose(similarities, vectors @ vectors.T, **NEAR)


@pytest.mark.once
def test_padding_on_either_side_changes_nothing(embedder, vectors):
    x = embedder.preprocessor.generate_preprocess(TEXTS[1:2])
    names = ("encoder_token_ids", "encoder_padding_mask")
    left = {name: np.pad(x[name][:, :3], ((0, 0), (5, 0))) for name in names}
    left["encoder_token_ids"][:, :5] = 9
    count = int(x["encoder_padding_mask"].sum())
    assert count <= 3
    left["encoder_padding_mask"] = np.arange(8)[None] >= 5
    left["encoder_padding_mask"] &= np.arange(8)[None] < 5 + count
    np.testing.assert_allclose(ops.convert_to_numpy(embedder(left)), vectors[1:2], **NEAR)


@pytest.mark.once
@pytest.mark.parametrize("encoder_only", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_presets_and_files(encoder_only, tmp_path):
    options = {"pooling": "attention", "dimensions": 48, "prompts": {"query": "Spell "}}
    cls = T5Gemma2TextEmbedder
    made = with_query(cls.from_preset(PRESET, encoder_only=encoder_only, **options))
    want = made.encode_text("7", prompt="query")
    made.save_to_preset(tmp_path / "preset")
    made.save(tmp_path / "embedder.keras")
    loaded = cls.from_preset(tmp_path / "preset", encoder_only=encoder_only)
    assert (loaded.backbone.decoder is None) == encoder_only
    again = keras.saving.load_model(tmp_path / "embedder.keras")
    for found in (loaded, again):
        np.testing.assert_allclose(found.encode_text("7", prompt="query"), want, **NEAR)
    by_hub = keras_hub.models.TextEmbedder.from_preset(str(tmp_path / "preset"))
    assert type(by_hub) is cls
    np.testing.assert_allclose(by_hub.encode_text("7", prompt="query"), want, **NEAR)


@pytest.mark.once
def test_a_preset_holds_the_query_alone_which_other_tasks_leave_out(tmp_path):
    lm = tiny_task(vision=False)
    made = with_query(T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor, "attention"))
    made.fit(["the cat"], ["a dog"], verbose=0)
    made.save_to_preset(tmp_path)
    query = made.head.pooling.query
    assert list(own_head_tensors(tmp_path)) == ["embedding_head/pooling/query"] == [query.path]
    with pytest.warns(UserWarning, match="The head of .* is left out"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    query.assign(np.full(query.shape, np.nan))
    made.save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="finite.*embedding_head/pooling/vars/0, of whose 28"):
        T5Gemma2TextEmbedder.from_preset(tmp_path)
    loaded = T5Gemma2TextEmbedder.from_preset(tmp_path, allow_nonfinite=True)
    assert np.isnan(ops.convert_to_numpy(loaded.head.pooling.query)).all()
    (tmp_path / "task.weights.h5").unlink()
    with pytest.raises(ValueError, match="Missing: .*query.*Give another `pooling` to do without"):
        T5Gemma2TextEmbedder.from_preset(tmp_path)
    assert T5Gemma2TextEmbedder.from_preset(tmp_path, pooling="mean").pooling == "mean"


@pytest.mark.once
def test_of_a_whole_model_the_decoder_is_left_alone(vectors):
    lm = T5Gemma2Seq2SeqLM.from_preset(PRESET)
    embedder = T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor)
    np.testing.assert_allclose(embedder.encode_text(TEXTS), vectors, **NEAR)
    trained = {variable.path for variable in embedder.trainable_variables}
    assert trained and not any(path.startswith("decoder/") for path in trained)


@pytest.mark.once
def test_images_and_prompts(embedder):
    images = [random_image(20, 31), None]
    found = embedder.encode_text(["<start_of_image> Which digit?", "Which digit?"], images)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    alone = embedder.encode_text({"images": images[0]}, prompt="It is ")
    marked = embedder.encode_text("It is <start_of_image>", images[0])
    np.testing.assert_allclose(alone, marked, **NEAR)


@pytest.mark.once
def test_fit_lowers_the_loss():
    embedder = T5Gemma2TextEmbedder.from_preset(PRESET, text_only=True, pooling="attention")
    embedder.compile(keras.optimizers.AdamW(1e-3))
    assert [metric.name for metric in embedder.metrics] == ["loss", "accuracy"]
    rows = {
        "query": ["seven", "eight", "nine", "ten"],
        "document": ["sieben", "acht", "neun", "zehn"],
        "negative": ["acht", "neun", "zehn", "elf"],
    }
    before = embedder.evaluate(rows, return_dict=True, verbose=0)
    history = embedder.fit(rows, epochs=5, validation_data=rows, verbose=0).history
    assert history["val_loss"][-1] < 0.8 * before["loss"]
    assert set(before) == {"loss", "accuracy"} <= set(history)
    assert np.abs(ops.convert_to_numpy(embedder.head.pooling.query)).max() > 0


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"pooling": "first", "normalize": False}, marks=pytest.mark.slow),
        {"dimensions": 40},
    ],
)
def test_sentence_transformers_gives_the_same_vectors(options, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    prompts = {"query": "task: search result | query: "}
    made = T5Gemma2TextEmbedder.from_preset(PRESET, prompts=prompts, **options)
    made.export_to_sentence_transformers(tmp_path)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), made.encode_text(TEXTS), **NEAR)
    found = model.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(found, made.encode_text(TEXTS, prompt="query"), **NEAR)
    again = T5Gemma2TextEmbedder.from_preset(tmp_path)
    assert again.prompts == prompts
    np.testing.assert_allclose(again.encode_text(TEXTS), made.encode_text(TEXTS), **NEAR)


@pytest.mark.once
def test_adapters_and_integers(embedder, vectors, tmp_path):
    made = T5Gemma2TextEmbedder.from_preset(PRESET, text_only=True)
    made.enable_lora(rank=2)
    np.testing.assert_allclose(made.encode_text(TEXTS), vectors, **NEAR)
    made.fit(["a", "b"], ["c", "d"], epochs=2, verbose=0)
    tuned = made.encode_text(TEXTS)
    made.set_adapter(None)
    np.testing.assert_allclose(made.encode_text(TEXTS), vectors, **NEAR)
    made.set_adapter("default")
    made.save_to_preset(tmp_path)
    loaded = T5Gemma2TextEmbedder.from_preset(tmp_path)
    np.testing.assert_allclose(loaded.encode_text(TEXTS), tuned, **NEAR)
    small = T5Gemma2TextEmbedder.from_preset(PRESET, quantize="int8")
    assert (embedder.similarity(small.encode_text(TEXTS), vectors).diagonal() > 0.99).all()


@pytest.mark.once
def test_hidden_states_of_a_fixed_length(embedder):
    states, mask = embedder.hidden_states(TEXTS[:2], layer=-2, length=16)
    assert states.shape == (2, 16, 128) and mask.sum(axis=1).tolist() == [7, 2]
    assert not states[~mask].any()
    with pytest.warns(
        UserWarning, match="`encoder_text` of row 0 has .*encoder_sequence_length=4.*1 more row"
    ):
        states, mask = embedder.hidden_states(TEXTS, length=4)
    assert states.shape == (3, 4, 128)
    with pytest.raises(ValueError, match="`layer` must be an integer from -4 to 3.*layer=4"):
        embedder.hidden_states(TEXTS, layer=4)


@pytest.mark.once
def test_what_is_refused(embedder, tmp_path):
    with pytest.raises(ValueError, match="`dimensions` must be .* from 1 to 128.*dimensions=129"):
        embedder.encode_text("a", dimensions=129)
    with pytest.raises(ValueError, match="as many numbers.*\\(1, 2\\) and \\(1, 3\\)"):
        embedder.similarity(np.ones(2), np.ones(3))
    with pytest.raises(TypeError, match="`prompt` must be a string.*prompt=7"):
        embedder.encode_text("a", prompt=7)
    with pytest.raises(TypeError, match="`prompts` must be a dict of strings"):
        T5Gemma2TextEmbedder(embedder.backbone, prompts=["a"])
    with pytest.raises(ValueError, match="`pooling` must be one of .*pooling='max'"):
        T5Gemma2TextEmbedder(embedder.backbone, pooling="max")
    with pytest.raises(ValueError, match="takes no metrics"):
        embedder.compile(metrics=["mse"])
    with pytest.raises(TypeError, match="`loss` must be .*loss='mse'"):
        embedder.compile(loss="mse")
    attention = T5Gemma2TextEmbedder(embedder.backbone, embedder.preprocessor, "attention")
    with pytest.raises(ValueError, match="no learned query.*pooling='attention'"):
        attention.export_to_sentence_transformers(tmp_path)
    with pytest.raises(ValueError, match="T5Gemma2Seq2SeqLM needs a backbone with a decoder"):
        T5Gemma2Seq2SeqLM(T5Gemma2Backbone.from_preset(PRESET, encoder_only=True))
