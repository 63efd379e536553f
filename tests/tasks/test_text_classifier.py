"""Rows classified: what `fit` takes, how it learns, and files of presets."""

import keras
import numpy as np
import pytest
from tasks import tiny_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, T5Gemma2TextClassifier, T5Gemma2TokenClassifier

TEXTS = ["the cat", "what is in the garden", "a dog", "a red bee and a house"]
LABELS = [0, 1, 0, 1]


def classifier(num_classes=2, vision=False, seed=3, **options):
    lm = tiny_task(vision=vision)
    made = T5Gemma2TextClassifier(lm.backbone, num_classes, lm.preprocessor, **options)
    for weight in made.head_variables():
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return made


@pytest.mark.once
def test_strings_and_labels_in_every_form_are_the_same_batch():
    model = classifier()
    forms = [
        ((TEXTS, LABELS), {}),
        (({"encoder_text": TEXTS, "label": LABELS},), {}),
        (([{"encoder_text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)],), {}),
        ((list(zip(TEXTS, LABELS, strict=True)),), {}),
        ((np.array(TEXTS), np.array(LABELS)), {}),
    ]
    losses = [model.evaluate(*x, return_dict=True, verbose=0, **more)["loss"] for x, more in forms]
    table = {"question": TEXTS, "kind": LABELS}
    columns = {"question": "encoder_text", "kind": "label"}
    losses.append(model.evaluate(table, columns=columns, return_dict=True, verbose=0)["loss"])
    arrays = model.preprocessor.generate_preprocess(TEXTS)
    losses.append(model.evaluate(arrays, np.array(LABELS), return_dict=True, verbose=0)["loss"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    logits = model.predict(TEXTS, verbose=0)
    assert logits.shape == (4, 2)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(losses[0], -logs[range(4), LABELS].mean(), rtol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("pooling", ["decoder", "mean", "attention"])
def test_a_preset_keeps_all_outputs(tmp_path, pooling):
    model = classifier(3, hidden_dim=5, dropout=0.1, activation="softmax", pooling=pooling)
    want = model.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(want.sum(axis=-1), 1, rtol=1e-5)
    model.save_to_preset(tmp_path)
    again = T5Gemma2TextClassifier.from_preset(tmp_path)
    assert (again.pooling, again.hidden_dim, again.dropout) == (pooling, 5, 0.1)
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.once
def test_other_loaders_of_a_preset(tmp_path):
    import keras_hub

    model = classifier(3)
    want = model.predict(TEXTS, verbose=0)
    model.save_to_preset(tmp_path)
    by_hub = keras_hub.models.TextClassifier.from_preset(str(tmp_path))
    assert type(by_hub) is T5Gemma2TextClassifier
    np.testing.assert_allclose(by_hub.predict(TEXTS, verbose=0), want, rtol=1e-5, atol=1e-6)
    with pytest.warns(UserWarning, match="The head of .* is left out"):
        lm = T5Gemma2Seq2SeqLM.from_preset(tmp_path)
    lm.save_to_preset(tmp_path / "lm")
    assert T5Gemma2TextClassifier.from_preset(tmp_path / "lm", num_classes=2).num_classes == 2
    with pytest.raises(ValueError, match="`num_classes` must be given for a preset without"):
        T5Gemma2TextClassifier.from_preset(tmp_path / "lm")
    with pytest.raises(ValueError, match="`num_classes` must be given for a preset without"):
        T5Gemma2TokenClassifier.from_preset(tmp_path)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded.predict(TEXTS, verbose=0), want, rtol=1e-5, atol=1e-6)
    new = T5Gemma2TextClassifier.from_preset(tmp_path, num_classes=5)
    assert new.predict(TEXTS, verbose=0).shape == (4, 5)


@pytest.mark.once
def test_regression_and_several_labels_learn():
    for num_classes, labels, metric in ((1, [0.5, -1.0, 2.0, 0.0], "mae"), (3, np.eye(4, 3), None)):
        model = classifier(num_classes)
        model.compile(keras.optimizers.Adam(0.01))
        history = model.fit(TEXTS, labels, epochs=4, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]
        assert (metric or "accuracy") in history


@pytest.mark.once
def test_images_weights_and_validation():
    model = classifier(2, vision=True)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (30, 30, 3), "uint8"), None, None, None]
    rows = {"encoder_text": ["<start_of_image> cat", *TEXTS[1:]], "images": images, "label": LABELS}
    first = {**rows, "encoder_text": ["<start_of_image> cat"], "images": images[:1], "label": [0]}
    alone = model.evaluate(first, return_dict=True, verbose=0)["loss"]
    weights = np.array([1.0, 0, 0, 0])
    got = model.evaluate(rows, sample_weight=weights, return_dict=True, verbose=0)["loss"]
    np.testing.assert_allclose(got, alone, rtol=1e-5)
    history = model.fit(rows, validation_split=0.5, class_weight={1: 2.0}, epochs=1, verbose=0)
    assert "val_accuracy" in history.history
    changed = {**first, "images": [255 - images[0]]}
    assert not np.allclose(model.predict(first, verbose=0), model.predict(changed, verbose=0))


@pytest.mark.slow
@pytest.mark.once
def test_adapters_train_the_head_too_and_integers_keep_it(tmp_path):
    model = classifier(2)
    model.enable_lora(rank=2)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.head_variables()]
    model.fit(TEXTS, LABELS, verbose=0)
    after = [keras.ops.convert_to_numpy(v) for v in model.head_variables()]
    assert all(not np.allclose(*pair) for pair in zip(before, after, strict=True))
    assert {v.path.split("/")[-1][:7] for v in model.trainable_variables} == {
        *("default", "kernel", "bias")
    }
    want = model.predict(TEXTS, verbose=0)
    model.save_to_preset(tmp_path)
    again = T5Gemma2TextClassifier.from_preset(tmp_path)
    assert again.active_adapter == "default"
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), want, rtol=1e-5, atol=1e-6)
    again.quantize("int8")
    rounded = again.predict(TEXTS, verbose=0)
    assert not np.array_equal(rounded, want)
    np.testing.assert_allclose(rounded, want, atol=0.3)
    again.save_to_preset(tmp_path)
    third = T5Gemma2TextClassifier.from_preset(tmp_path)
    np.testing.assert_allclose(third.predict(TEXTS, verbose=0), rounded, rtol=1e-5, atol=1e-6)


@pytest.mark.once
def test_only_the_encoder_is_adapted_and_trained_where_the_decoder_does_not_run():
    model = classifier(2, pooling="mean")
    assert not any(v.path.startswith("decoder") for v in model.trainable_variables)
    model.enable_lora(rank=2)
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"encoder", "head"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 0], "an integer from 0 to 1 for each row"),
        ([0, 1, 0.5, 0], "an integer from 0 to 1 for each row"),
        (["yes", "no", "yes", "no"], "Labels must be numbers. Received in row 0: 'yes'"),
        ([0, 1, 0], "Received: 3 labels and 4 rows"),
        ([[0], [1, 0], [1], [1]], "must have one shape"),
        (None, "Labels must be given, as `y` or as the column `label`"),
    ],
)
def test_labels_that_are_none(labels, message):
    model = classifier()
    with pytest.raises(ValueError, match=message):
        model.fit(TEXTS, labels, verbose=0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"num_classes": 0}, ValueError, "`num_classes` must be an integer of at least 1"),
        ({"hidden_dim": 1.5}, ValueError, "`hidden_dim` must be an integer of at least 1"),
        ({"dropout": 1}, ValueError, "`dropout` must be a number from 0 to below 1"),
        ({"pooling": "max"}, ValueError, "`pooling` must be one of 'decoder', 'mean'"),
        ({"activation": 3}, TypeError, "`activation` must be a name, a function or `None`"),
        ({"polling": "mean"}, TypeError, "no argument `polling`. Did you mean `pooling`"),
    ],
)
def test_arguments_that_are_none(options, kind, message):
    lm = tiny_task(vision=False)
    with pytest.raises(kind, match=message):
        T5Gemma2TextClassifier(lm.backbone, **{"num_classes": 2, **options})


@pytest.mark.once
def test_what_a_classifier_has_not():
    model = classifier(3, activation="sigmoid", pooling="mean")
    for name in ("generate", "score", "sample_logits", "token_sums", "save_to_keras_hub_preset"):
        assert not hasattr(model, name)
    with pytest.raises(AttributeError, match="score"):
        model.score(TEXTS)
    with pytest.raises(ValueError, match='`activation` must be None or "softmax"'):
        model.fit(TEXTS, LABELS, verbose=0)
    with pytest.raises(ValueError, match="activation='sigmoid', pooling='mean'"):
        model.export_to_transformers("nowhere")
    with pytest.raises(ValueError, match="`distillation` is of texts that a model writes"):
        model.fit(TEXTS, LABELS, distillation=object())


@pytest.mark.slow
def test_the_default_compile_learns_in_six_epochs():
    rng = np.random.default_rng(0)
    languages = rng.choice(["Dutch", "German", "Finnish", "French"], 128)
    numbers = rng.integers(100, 1000, 128)
    pairs = list(zip(numbers, languages, strict=True))
    texts = [f"Spell {number} in {language}." for number, language in pairs[:64]]
    texts += [f"Write 2026-{n % 12 + 1:02}-17 in {language}." for n, language in pairs[64:]]
    labels = np.repeat([0, 1], 64)
    model = T5Gemma2TextClassifier.from_preset("t5gemma2_tiny", num_classes=2, text_only=True)
    model.fit(texts, labels, epochs=6, verbose=0)
    assert (model.predict(texts, verbose=0).argmax(axis=-1) == labels).mean() >= 0.9
