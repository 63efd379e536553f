"""The directory for CTranslate2: its tokens where its encoder is right, and its README."""

import builtins

import keras
import numpy as np
import pytest

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.export.ctranslate2 import safe_length, write_ctranslate2

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(keras.config.backend() != "torch", reason="no backend changes the result"),
]
# At most eight tokens: the windows of the encoder are 16 tokens wide.
PROMPTS = ["Spell 42 in German.", "Spell 7 in Dutch.", "Say 37!"]


@pytest.fixture(scope="module")
def lm():
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.compile(sampler="greedy")
    return lm


def test_greedy_tokens_are_those_of_generate(lm, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    write_ctranslate2(lm, tmp_path / "model")
    translator = ctranslate2.Translator(str(tmp_path / "model"))
    tokenizer = lm.preprocessor.tokenizer
    for prompt in PROMPTS:
        ids = [tokenizer.start_token_id, *tokenizer(prompt)]
        assert len(ids) <= safe_length(lm.backbone.config)
        tokens = [tokenizer.id_to_token(int(id)) for id in ids]
        (found,) = translator.translate_batch([tokens], beam_size=1, max_decoding_length=15)
        want = lm.generate(prompt, max_new_tokens=15, strip_prompt=True, return_scores=True)
        wanted = [tokenizer.id_to_token(int(id)) for id in want.token_ids]
        end = tokenizer.id_to_token(tokenizer.end_token_id)
        assert found.hypotheses[0] == [token for token in wanted if token != end]


@pytest.mark.slow
def test_the_readme_says_up_to_which_length_it_is_right(lm, tmp_path):
    pytest.importorskip("ctranslate2")
    write_ctranslate2(lm, tmp_path / "model", "tiny")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "# tiny, for CTranslate2" in text
    assert "**Inputs of the encoder must have at most 8 tokens**" in text
    assert "7 to its left and 8 to its right" in text
    assert "Outputs of more than 16 tokens" in text
    assert (tmp_path / "model" / "model.bin").is_file()
    assert not list(tmp_path.glob(".ctranslate2-*"))


def test_up_to_the_safe_length_no_window_cuts(lm):
    from keras_t5gemma2.kernels import Window

    length = safe_length(lm.backbone.config)
    window = Window.bidirectional(16)
    far = np.arange(length)[:, None] - np.arange(length)
    assert far.max() <= window.left and -far.min() <= window.right
    assert length > min(window.left, window.right)


def test_what_is_missing_is_named(lm, tmp_path, monkeypatch):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "ctranslate2":
            raise ModuleNotFoundError("No module named 'ctranslate2'", name="ctranslate2")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"Missing: ctranslate2. Install the extra: pip install"):
        write_ctranslate2(lm, tmp_path / "model")
    with pytest.raises(ValueError, match=r"CTranslate2 stores the vocabulary with the model"):
        write_ctranslate2(T5Gemma2Seq2SeqLM(lm.backbone), tmp_path / "model")
    assert not (tmp_path / "model").exists()
