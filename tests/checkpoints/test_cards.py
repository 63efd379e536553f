"""What goes with weights that are shared: where they come from, how to load them, their terms."""

import pytest
from safetensors import safe_open
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.checkpoints.cards import GEMMA_NOTICE, is_as_written
from keras_t5gemma2.checkpoints.sources import source_of

pytestmark = pytest.mark.once
SENTENCE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)


def gemma_task():
    lm = small_task()
    lm.backbone.source = "google/t5gemma-2-270m-270m"
    return lm


def front_matter(text):
    start, lines, _ = text.split("---\n", 2)
    assert start == ""
    pairs = [line.partition(": ") for line in lines.splitlines() if ": " in line]
    tags = [line.removeprefix("- ") for line in lines.splitlines() if line.startswith("- ")]
    return {key: value for key, _, value in pairs} | {"tags": tags}


def code(text):
    return text.split("```python\n")[1].split("```")[0]


def test_a_preset_of_gemma_says_where_it_comes_from_and_its_terms(tmp_path):
    lm = gemma_task()
    lm.fit(SMALL_ROWS, epochs=2, verbose=0)
    lm.save_to_preset(tmp_path / "french")
    text = (tmp_path / "french" / "README.md").read_text()
    about = front_matter(text)
    assert about["base_model"] == "google/t5gemma-2-270m-270m"
    assert (about["license"], about["library_name"]) == ("gemma", "keras_t5gemma2")
    assert {"t5gemma2", "keras"} <= set(about["tags"])
    assert f"| loss | {lm.history.history['loss'][-1]:.4g} |" in text
    assert (tmp_path / "french" / "NOTICE").read_text() == f"{SENTENCE}\n" == f"{GEMMA_NOTICE}\n"
    assert SENTENCE in text and "ai.google.dev/gemma/prohibited_use_policy" in text
    assert str(tmp_path) not in text
    scope = {}
    exec(code(text).replace('"french"', repr(str(tmp_path / "french"))), scope)
    assert scope["lm"].backbone.source == "google/t5gemma-2-270m-270m"


def test_what_does_not_derive_from_gemma_has_no_notice(tmp_path):
    small_task().save_to_preset(tmp_path / "random")
    T5Gemma2Backbone.from_preset("t5gemma2_tiny").save_to_preset(tmp_path / "tiny")
    assert not list(tmp_path.rglob("NOTICE"))
    random = (tmp_path / "random" / "README.md").read_text()
    assert front_matter(random)["license"] == "unknown" and "base_model" not in random
    tiny = (tmp_path / "tiny" / "README.md").read_text()
    about = front_matter(tiny)
    assert (about["base_model"], about["license"]) == ("t5gemma2_tiny", "apache-2.0")
    assert "Gemma Terms" not in tiny + random
    assert 'keras_t5gemma2.T5Gemma2Backbone.from_preset("tiny")' in tiny


def test_every_format_says_it(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.backbone.source = "google/gemma-3-270m"
    lm.export_to_transformers(tmp_path / "hf")
    lm.save_to_keras_hub_preset(tmp_path / "hub")
    lm.backbone.save_to_keras_hub_preset(tmp_path / "hub_backbone")
    lm.backbone.export_to_transformers(tmp_path / "hf_backbone")
    lm.enable_lora(2, target=["query"])
    lm.save_adapter(tmp_path / "french.safetensors")
    lm.save_peft_adapter(tmp_path / "peft")
    lm.export_to_transformers(tmp_path / "with_peft", adapters="peft")
    lm.save_to_preset(tmp_path / "own")
    libraries = {
        "hf": "transformers",
        "hf_backbone": "transformers",
        "hub": "keras-hub",
        "hub_backbone": "keras-hub",
        "peft": "peft",
        "with_peft": "transformers",
        "with_peft/adapters/default": "peft",
        "own": "keras_t5gemma2",
    }
    for directory, library in libraries.items():
        text = (tmp_path / directory / "README.md").read_text()
        about = front_matter(text)
        assert (about["library_name"], about["license"]) == (library, "gemma")
        assert about["base_model"] == "google/gemma-3-270m" and is_as_written(text)
        assert (tmp_path / directory / "NOTICE").read_text() == f"{SENTENCE}\n"
    # Beside a single file, and in it.
    text = (tmp_path / "french.md").read_text()
    assert SENTENCE in text and 'lm.load_adapter("french.safetensors")' in text
    assert front_matter(text)["base_model"] == "google/gemma-3-270m"
    with safe_open(tmp_path / "french.safetensors", "numpy") as file:
        assert file.metadata()["notice"] == SENTENCE
    assert not list((tmp_path / "own" / "adapters").glob("*.md"))
    for directory in ("hf", "hub", "own", "with_peft"):
        assert source_of(tmp_path / directory, tmp_path / directory) == "google/gemma-3-270m"


def test_an_edited_readme_and_a_notice_of_the_user_stay(tmp_path):
    lm = gemma_task()
    lm.save_to_preset(tmp_path)
    lm.save_to_preset(tmp_path)  # as it was written: written anew, without a word
    readme, notice = tmp_path / "README.md", tmp_path / "NOTICE"
    edited = readme.read_text().replace("T5Gemma 2 model", "model of mine")
    readme.write_text(edited)
    notice.write_text("Mine.\n")
    with pytest.warns(UserWarning, match=r"README.md has been edited.*stays as it is") as caught:
        lm.save_to_preset(tmp_path)
    assert len([w for w in caught if "README" in str(w.message)]) == 1
    assert readme.read_text() == edited
    assert notice.read_text() == f"Mine.\n\n{SENTENCE}\n"
    with pytest.warns(UserWarning, match="has been edited"):
        lm.save_to_preset(tmp_path)
    assert notice.read_text() == f"Mine.\n\n{SENTENCE}\n"
    lm.enable_lora(2, target=["query"])
    (tmp_path / "a.md").write_text("My notes")
    with pytest.warns(UserWarning, match=r"a\.md has been edited"):
        lm.save_adapter(tmp_path / "a.safetensors")
    assert (tmp_path / "a.md").read_text() == "My notes"
