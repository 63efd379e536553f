"""The layer that makes training data of plain texts and images."""

import dataclasses
import json

import keras
import keras_hub
import numpy as np
import pytest
from tasks import tiny_task
from tiny_models import SMALL_CONFIG, tiny_backbone
from tiny_vocabulary import tiny_tokenizer_data

from keras_t5gemma2 import (
    T5Gemma2DenoisingPreprocessor,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
)
from keras_t5gemma2.preprocessing.denoising import (
    Denoiser,
    fill,
)


@pytest.fixture(scope="module")
def tokenizer():
    """That of the other tests, with eight tokens for sentinels."""
    content = json.loads(tiny_tokenizer_data())
    added = content["added_tokens"]
    for i in range(8):
        text = f"<unused{6237 - i}>"
        index = len(content["model"]["vocab"])
        content["model"]["vocab"][text] = index
        added.append({**added[-1], "id": index, "content": text})
    return T5Gemma2Tokenizer(json.dumps(content).encode())


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    words = ["the", "cat", "a", "dog", "is", "in", "this", "house", "garden", "bee", "flower"]
    return [" ".join(rng.choice(words, size)) for size in (1, 9, 40, 17)]


def preprocessor(tokenizer, vision=False, **options):
    converter = T5Gemma2ImageConverter((28, 28)) if vision else None
    options = {"encoder_sequence_length": 19, "decoder_sequence_length": 17, **options}
    return T5Gemma2DenoisingPreprocessor(tokenizer, converter, tokens_per_image=4, **options)


def rows_of(x, labels, weights):
    """Per row the encoder's ids and the labels, without padding."""
    return [
        (ids[mask].tolist(), label[weight > 0].tolist())
        for ids, mask, label, weight in zip(
            x["encoder_token_ids"], x["encoder_padding_mask"], labels, weights, strict=True
        )
    ]


def test_arrays_restore_the_texts(tokenizer, texts):
    layer = preprocessor(tokenizer)
    ids = [tokenizer.token_to_id(token) for token in layer.sentinels]
    assert layer.sentinels == tuple(f"<unused{6237 - i}>" for i in range(8))
    for _ in range(20):
        x, labels, weights = layer(texts)
        assert x["encoder_token_ids"].shape == (4, 19) and labels.shape == (4, 17)
        for text, (inputs, targets) in zip(texts, rows_of(x, labels, weights), strict=True):
            assert inputs[0] == 2 and targets[-1] == 1 and targets[0] == ids[0]
            restored = tokenizer.detokenize(fill(inputs[1:], targets[:-1], ids))
            # Two of the texts are longer than what the arrays hold.
            assert restored == text if len(text.split()) < 10 else restored in text
        np.testing.assert_array_equal(x["decoder_token_ids"][:, 1:], labels[:, :-1])


def test_same_seed_same_arrays(tokenizer, texts):
    one, other, third = (preprocessor(tokenizer, seed=seed) for seed in (3, 3, 4))
    first, second = rows_of(*one(texts)), rows_of(*one(texts))
    assert first != second
    assert [rows_of(*other(texts)), rows_of(*other(texts))] == [first, second]
    assert rows_of(*third(texts)) != first


def test_images_make_a_prefix(tokenizer, rng):
    lengths = {"encoder_sequence_length": 29, "decoder_sequence_length": 9}
    layer = preprocessor(tokenizer, vision=True, **lengths)
    image = rng.integers(0, 256, size=(28, 28, 3)).astype("uint8")
    rows = {
        "encoder_text": ["the <start_of_image>cat<start_of_image>a dog is", "the cat a dog"],
        "images": [[image, image], None],
    }
    x, labels, weights = layer(rows)
    (inputs, targets), (text, _) = rows_of(x, labels, weights)
    sentinel = tokenizer.token_to_id("<unused6237>")
    assert x["images"].shape == (2, 2, 28, 28, 3)
    assert inputs.count(7) == 8 and inputs[-1] == sentinel and text[0] == 2
    last = inputs[len(inputs) - inputs[::-1].index(6) :]  # after the last end of an image
    assert tokenizer.detokenize(last) == "\n\n<unused6237>"
    assert tokenizer.detokenize(targets) == "<unused6237>a dog is<eos>"
    for length in (len(inputs) - 1, len(inputs) - 2):
        shorter = preprocessor(tokenizer, vision=True, encoder_sequence_length=length)
        with pytest.raises(ValueError, match=f"in row 0.* encoder_sequence_length={length}"):
            shorter.encode_rows(rows, training=True)


def test_prompts_stay_as_they_are(tokenizer):
    layer = preprocessor(tokenizer)
    plain = T5Gemma2Seq2SeqLMPreprocessor(tokenizer, None, 19, 17)
    prompt = {"encoder_text": "the cat", "decoder_text": "a"}
    want = plain.generate_preprocess(prompt)
    for name, value in layer.generate_preprocess(prompt).items():
        np.testing.assert_array_equal(value, want[name])


@pytest.mark.once
def test_config_and_preset(tokenizer, texts, tmp_path):
    options = {"denoisers": [[0.3, 2.0, 1.0]], "first_sentinel": "<unused6235>", "seed": 5}
    layer = preprocessor(tokenizer, truncate=False, encoder_sequence_length=90, **options)
    config = layer.get_config()
    for name, value in {**options, "truncate": False, "encoder_sequence_length": 90}.items():
        assert config[name] == value
    again = T5Gemma2DenoisingPreprocessor.from_config(json.loads(json.dumps(config)))
    again.tokenizer.set_proto(tokenizer._vocabulary.data)  # which configurations do not hold
    assert again.sentinels == layer.sentinels and len(layer.sentinels) == 6
    want = rows_of(*layer(texts))
    assert rows_of(*again(texts)) == want

    fitting = dataclasses.replace(SMALL_CONFIG, vocabulary_size=tokenizer.vocabulary_size())
    T5Gemma2Seq2SeqLM(tiny_backbone(fitting), layer).save_to_preset(tmp_path)
    assert rows_of(*T5Gemma2DenoisingPreprocessor.from_preset(tmp_path)(texts)) == want
    task = T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    assert type(task.preprocessor) is T5Gemma2DenoisingPreprocessor


def test_of_an_ordinary_preset(tmp_path):
    lm = tiny_task(config=SMALL_CONFIG, vision=False)
    lm.save_to_preset(tmp_path)
    options = {"first_sentinel": "<unused0>", "seed": 9}
    layer = T5Gemma2DenoisingPreprocessor.from_preset(tmp_path, **options)
    assert (layer.encoder_sequence_length, layer.seed) == (40, 9)
    # keras-hub looks for the class of a preprocessor by that of the backbone.
    (tmp_path / "preprocessor.json").unlink()
    for _ in range(3):
        found = keras_hub.models.Seq2SeqLMPreprocessor.from_preset(str(tmp_path))
        assert type(found) is T5Gemma2Seq2SeqLMPreprocessor


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"encoder_text": "a", "decoder_text": "b"}, "must be left out.*in row 0"),
        ({"encoder_text": " "}, r"must not be empty.*\n?.*in row 1: ' '"),
        ({"encoder_text": "a <unused6236> b"}, r"In row 1: A text must hold no sentinel.*token 2"),
        ({"encoder_text": "a <start_of_image>", "images": "image"}, "the last one.*in row 1"),
        ({"encoder_text": "a <start_of_image>"}, "in row 1: 1 of them and 0 images"),
    ],
)
def test_rows_without_targets_are_an_error(row, message, tokenizer):
    layer = preprocessor(tokenizer, vision=True)
    if "images" in row:
        row = {**row, "images": np.zeros((28, 28, 3), "uint8")}
    other = {"encoder_text": "the cat", **({"decoder_text": ""} if "decoder_text" in row else {})}
    with pytest.raises(ValueError, match=message):
        layer([other, row])


def test_texts_are_not_cut_unless_they_may_be(tokenizer, texts):
    layer = preprocessor(tokenizer, truncate=False)
    with pytest.raises(ValueError, match=r"row 2: \d+ tokens, encoder_sequence_length=19"):
        layer.check_rows(texts)


@pytest.mark.once
def test_fit_on_plain_text(tokenizer, texts):
    """A text learned by heart: its gaps are filled better and better."""
    lm = tiny_task(vision=False, config=SMALL_CONFIG)
    # The tiny vocabulary has one such token.
    lm.preprocessor = T5Gemma2DenoisingPreprocessor(
        lm.preprocessor.tokenizer,
        encoder_sequence_length=19,
        decoder_sequence_length=17,
        denoisers=[Denoiser(0.5, 30.0)],
        first_sentinel="<unused0>",
    )
    lm.compile(optimizer=keras.optimizers.Adam(0.01), sampler="greedy")
    history = lm.fit([texts[1]] * 8, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
