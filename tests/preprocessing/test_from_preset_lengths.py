"""The caps of a preprocessor: those of the model, kept by every format, and set when loaded."""

import json
import shutil

import keras
import pytest
from reference_gemma3 import tiny_gemma3, write_gguf
from reference_models import save_reference, tiny_reference
from tasks import small_task
from tiny_vocabulary import tiny_tokenizer_json

from keras_t5gemma2 import (
    T5Gemma2DenoisingPreprocessor,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
)
from keras_t5gemma2.checkpoints.gemma3.gguf import read_gemma3_gguf

LONG = "Spell 4268 in German." * 400
GIVEN = {"encoder_sequence_length": 50_000, "decoder_sequence_length": 77}


def caps(preprocessor):
    preprocessor = getattr(preprocessor, "preprocessor", preprocessor)
    return preprocessor.encoder_sequence_length, preprocessor.decoder_sequence_length


def tokens_read(encoded):
    return int((keras.ops.convert_to_numpy(encoded.memory.positions) >= 0).sum())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The embedded preset in the reference's format."""
    path = tmp_path_factory.mktemp("exported")
    T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny").export_to_transformers(path)
    return path


@pytest.mark.once
def test_an_export_keeps_the_caps_and_arguments_change_them(exported):
    lm = T5Gemma2Seq2SeqLM.from_preset(exported)
    assert caps(lm) == (64, 48)
    with pytest.warns(UserWarning, match="row 0 has [0-9]+ tokens, of which the first 64 are rea"):
        assert tokens_read(lm.encode(LONG)) == 64
    lm = T5Gemma2Seq2SeqLM.from_preset(exported, **GIVEN)
    assert caps(lm) == (50_000, 77)
    assert tokens_read(lm.encode(LONG)) == len(lm.preprocessor.tokenizer(LONG)) + 1


@pytest.mark.slow
@pytest.mark.once
def test_arguments_of_task_and_preprocessor(exported, tmp_path):
    tiny = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    tiny.save_to_keras_hub_preset(tmp_path / "hub")
    small_task().save_to_preset(tmp_path / "own")
    for preset, own in (
        ("t5gemma2_tiny", (64, 48)),
        (exported, (64, 48)),
        (tmp_path / "hub", (64, 48)),
        (tmp_path / "own", (11, 9)),
    ):
        for cls in (
            T5Gemma2Seq2SeqLM,
            T5Gemma2Seq2SeqLMPreprocessor,
            T5Gemma2DenoisingPreprocessor,
        ):
            is_task = cls is T5Gemma2Seq2SeqLM
            options = {"load_weights": False, "text_only": True} if is_task else {}
            assert caps(cls.from_preset(preset, **options)) == own
            assert caps(cls.from_preset(preset, **GIVEN, **options)) == (50_000, 77)
            only = cls.from_preset(preset, encoder_sequence_length=30, **options)
            assert caps(only) == (30, own[1])
            none = cls.from_preset(preset, encoder_sequence_length=None, **options)
            assert caps(none) == own
            with pytest.raises(TypeError, match="`decoder_sequence_length` must be .*=2.5"):
                cls.from_preset(preset, decoder_sequence_length=2.5, **options)
            with pytest.raises(ValueError, match="`encoder_sequence_length` must be .*=0"):
                cls.from_preset(preset, encoder_sequence_length=0, **options)


@pytest.mark.once
def test_a_length_needs_a_preprocessor_that_is_loaded(tmp_path):
    for preprocessor in (None, small_task().preprocessor):
        with pytest.raises(ValueError, match="Received: encoder_sequence_length=50000, decoder"):
            T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", preprocessor=preprocessor, **GIVEN)
    save_reference(tiny_reference(), tmp_path)
    with pytest.raises(ValueError, match=r"needs a tokenizer. Received: decoder_sequence_length=7"):
        T5Gemma2Seq2SeqLM.from_preset(tmp_path, decoder_sequence_length=7)


@pytest.mark.once
def test_a_directory_of_the_reference_has_a_length_for_each_stack(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    values = json.loads(path.read_text())

    def load(encoder, decoder):
        parts = values["encoder"]["text_config"], values["decoder"]
        for part, length in zip(parts, (encoder, decoder), strict=True):
            part.pop("max_position_embeddings", None)
            if length is not None:
                part["max_position_embeddings"] = length
        path.write_text(json.dumps(values))
        return T5Gemma2Seq2SeqLMPreprocessor.from_preset(tmp_path / "hf")

    assert caps(load(4096, 512)) == (4096, 512)
    assert caps(load(None, 512)) == (131_072, 512)  # the default of the reference's class
    with pytest.raises(ValueError, match=r"decoder.max_position_embeddings.*Received: .*=-1"):
        load(4096, -1)


@pytest.mark.once
def test_gemma3_has_its_own(tmp_path):
    models = {"long": 4096, "short": 512}
    for name, length in models.items():
        model = tiny_gemma3(max_position_embeddings=length, vocab_size=520)
        save_reference(model, tmp_path / name)
        tiny_tokenizer_json(tmp_path / name / "tokenizer.json")
        write_gguf(tmp_path / f"{name}.gguf", model)
    load = T5Gemma2Seq2SeqLM.from_gemma3
    assert caps(load(tmp_path / "long")) == (4096, 4096)
    assert caps(load(tmp_path / "long", tmp_path / "short")) == (4096, 512)
    assert caps(load(tmp_path / "long", **GIVEN)) == (50_000, 77)
    with pytest.raises(ValueError, match="for the preprocessor that is loaded"):
        load(tmp_path / "long", preprocessor=None, **GIVEN)
    of_files = [read_gemma3_gguf(tmp_path / f"{name}.gguf")[0] for name in models]
    assert [values["max_position_embeddings"] for values in of_files] == [4096, 512]


@pytest.mark.once
def test_without_a_word_the_caps_are_those_of_the_published_models():
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(small_task().preprocessor.tokenizer)
    assert caps(preprocessor) == (131_072, 32_768)
    assert caps(T5Gemma2DenoisingPreprocessor(preprocessor.tokenizer)) == (131_072, 32_768)
