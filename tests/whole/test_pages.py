"""The site: it can be built, its examples do what the text says, its errors are those that come."""

import pathlib
import re
import subprocess
import sys
import tomllib
import warnings

import keras
import numpy as np
import pages
import pytest
import yaml
from repository import ROOT, environment

import keras_t5gemma2

pytestmark = pytest.mark.once

FOLDER = ROOT / "docs"
T5Gemma2Seq2SeqLM = keras_t5gemma2.T5Gemma2Seq2SeqLM


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A function that gives a reader of a page, who is in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    pages.write_files()
    readers = []

    def reading(page):
        readers.append(pages.Reader(f"docs/{page}"))
        return readers[-1]

    yield reading
    for reader in readers:
        assert reader.left() == []


@pytest.fixture
def histories(monkeypatch):
    """The `History` of each `fit`."""
    found, fit = [], T5Gemma2Seq2SeqLM.fit

    def keeping(self, *args, **kwargs):
        found.append(fit(self, *args, **kwargs).history)
        return found[-1]

    monkeypatch.setattr(T5Gemma2Seq2SeqLM, "fit", keeping)
    return found


def test_every_page_with_examples_is_read_here():
    with_examples = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*.md")
        if pages.examples_of(path)
    }
    # These ask a server, data of others, and engines of many machines.
    with_examples -= {"serving.md", "lm_eval.md", "howto/many_machines.md"}
    read_here = set(re.findall(r'read\("([a-z_/]+\.md)"\)', pathlib.Path(__file__).read_text()))
    assert with_examples == read_here


def test_start(read):
    assert read("index.md").run("Spell 4268").strip() == "viertausendzweihundertachtundsechzig"


def test_tutorial(read):
    reader = read("tutorial.md")
    answers = reader.run("Spell 4268").split("\n")
    assert answers[0] == "viertausendzweihundertachtundsechzig" and "décembre" in answers[1]
    assert reader.run("load_digits").strip() == "7"
    right, wrong = np.fromstring(reader.run("lm.score(").strip("[] \n"), sep=" ")
    assert right > wrong
    before, *_, after = reader.run("lm.enable_lora(").strip().split("\n")
    assert before != "05.07.1999" and after == "05.07.1999"
    losses = reader["history"].history["loss"]
    assert losses[-1] < 0.2 * losses[0]
    assert "exact_match" in reader.run("evaluate_generation(")
    reader.run("lm.save_adapter(")
    reader["again"].compile(sampler="greedy")
    assert reader["again"].generate("Write 1999-07-05 with dots.", max_new_tokens=16) == after


def test_generate(read):
    reader = read("howto/generate.md")
    assert reader.run('of France is", max_new_tokens').strip()
    reader.run('"images": "cat.png"')
    _check_that_images_count(reader["lm"], reader["prompt"])
    batch = eval(reader.run("Rain in Spain"))
    assert len(batch) == 2 and batch[0].startswith("a") and batch[1]
    texts = reader.run("encoded = lm.encode(document)")
    lm = reader["lm"]
    positions = keras.ops.convert_to_numpy(reader["encoded"].memory.positions)
    assert (positions >= 0).sum() == len(lm.preprocessor.tokenizer(pages.DOCUMENT)) + 1
    prompted, haikus = map(eval, texts.strip().splitlines())
    assert [text.split()[0] for text in prompted] == ["In", "The"] and len(haikus) == 4
    assert reader.run('lm.stream("Once upon a time")').strip()


def _check_that_images_count(lm, prompt):
    with_another = {**prompt, "images": np.zeros((9, 9, 3), "uint8")}
    scores = [lm.score({**p, "decoder_text": "7"}) for p in (prompt, with_another)]
    assert scores[0] != scores[1]


def test_share(read):
    reader = read("howto/share.md")
    reader.run("T5Gemma2Seq2SeqLM = keras_t5gemma2.T5Gemma2Seq2SeqLM")
    assert reader["text"].backbone.vision is None and reader["lm"].backbone.vision is not None
    tables = [reader[name].backbone.token_embedding.embeddings for name in ("fresh", "adapted")]
    assert np.abs(np.subtract(*map(keras.ops.convert_to_numpy, tables))).max() > 0.01
    reader.run('lm.save_to_preset("my_model")')
    question = "Spell 4268 in German."
    for directory in ("my_model", "for_torch", "for_keras_hub"):
        again = T5Gemma2Seq2SeqLM.from_preset(directory)
        again.compile(sampler="greedy")
        answer = again.generate(question, max_new_tokens=32)
        assert answer == "viertausendzweihundertachtundsechzig", directory
        assert pathlib.Path(directory, "README.md").is_file()


def test_tasks(read, histories):
    reader = read("howto/tasks.md")
    reader.run('lm.compile(sampler="greedy")')
    lines = reader.run("constraints.regex(").rstrip().split("\n")
    assert re.fullmatch(r"\d{1,2} [a-z]+ \d{4}", lines[-2])
    assert len(reader["lm"].score_tokens("(a) or (b)?", ["a", "b"]).logits) == 2
    reader.run("lm.attention(")
    assert reader["weights"] is not None and reader["surprise"] is not None
    reader.run("lm.chat(messages")
    assert histories[-1]["loss"][-1] < histories[-1]["loss"][0]
    similarity = reader.run("embedder.similarity(").strip()
    table = np.array(re.findall(r"[-+\d.e]+", similarity), "float64").reshape(3, 3)
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-6)
    assert reader["embedder"].backbone.decoder is None
    assert reader.run("classifier.predict([").strip().endswith("[0 1]")


def test_train(read, histories):
    reader = read("howto/train.md")
    reader.run('"images": ["seven.png", None]')
    assert histories[-1]["loss"][-1] < histories[-1]["loss"][0]
    evaluation = reader.run("lm.enable_lora(rank=16, alpha=32)")
    assert histories[-1]["loss"][-1] < 0.5 * histories[-1]["loss"][0]
    assert pathlib.Path("adapter.safetensors").stat().st_size > 10_000
    assert "exact_match" in evaluation
    reader.run("Distillation(base)")
    assert len(histories) == 4 and all(np.isfinite(h["loss"]).all() for h in histories)
    reader.run("def brief(")
    assert {"reward", "reward_std", "kl"} <= histories[-1].keys()
    reader.run("merge_models(")
    assert pathlib.Path("merged", "config.json").is_file()
    reader.run("keras_t5gemma2.WARP(")
    assert reader["warp"].rounds == 1
    reader.run("keras_t5gemma2.upcycle(lm")
    assert np.isfinite(histories[-1]["loss"]).all()


def test_small(read):
    reader = read("howto/small.md")
    reader.run('lm.quantize("int8")')
    assert reader["lm"].cache_dtype == "int8"
    assert set(reader["lm"].backbone.quantized_layers.values()) == {"int4/32"}
    reader.run('lm.prepare_qat("int4/-1")')
    assert set(reader["lm"].backbone.quantized_layers.values()) == {"int4/-1"}
    scores = [reader[name].score(reader["rows"])[0] for name in ("lm", "teacher")]
    assert abs(scores[0] - scores[1]) < 3


@pytest.mark.skipif(keras.config.backend() != "jax", reason="meshes are JAX's")
def test_devices(read):
    reader = read("howto/devices.md")
    try:
        reader.run("distribution.distribute(")
    finally:
        keras.distribution.set_distribution(None)
    assert reader["lm"].generate("Spell 7 in Dutch.", max_new_tokens=4)


def test_platforms(read):
    table = read("howto/platforms.md").run("kernels_for(").splitlines()
    assert table[2].startswith("| encoder |") and len(table) == 7


def test_migration(read):
    reader = read("migration.md")
    reader.run("export_to_transformers")
    reader.run("save_to_keras_hub_preset")
    assert reader["again"].backbone.count_params() == reader["lm"].backbone.count_params()


MARKED = {"encoder_text": "<start_of_image>x"}
TROUBLES = {
    "A preset must be a name": lambda lm: T5Gemma2Seq2SeqLM.from_preset("t5gemma2_270m"),
    "has no argument": lambda lm: lm.generate("a", max_tokens=3),
    "of which the first": lambda lm: lm.generate("x y " * 100, max_new_tokens=2),
    "must fit into the model": lambda lm: _not_cut(lm).generate("x y " * 100),
    "must hold one": lambda lm: lm.generate({"encoder_text": "x", "images": np.zeros((8, 8, 3))}),
    "Pillow cannot read": lambda lm: lm.generate({**MARKED, "images": "nothing.png"}),
    "An image must be on": lambda lm: lm.generate({**MARKED, "images": "https://a.b/c.png"}),
    "The levels of an image": lambda lm: lm.generate(
        {**MARKED, "images": np.eye(8, dtype="float32")[..., None].repeat(3, -1)}, max_new_tokens=2
    ),
    "are not finite": lambda lm: _broken(lm).generate("Spell 7", max_new_tokens=2),
    "`decoder_text` must be given": lambda lm: lm.fit({"encoder_text": ["a"]}),
    "A batch must have": lambda lm: lm.fit([]),
    "Unable to find a subclass": lambda lm: _with_the_class_of_keras_hub(lm),
}
# One needs no network, the other is no error.
NOT_TRIED = {"cannot be downloaded", "Compiling"}


def _not_cut(lm):
    lm.preprocessor.truncate = False
    return lm


def _broken(lm):
    table = lm.backbone.token_embedding.embeddings
    table.assign(keras.ops.full_like(table, float("nan")))
    return lm


def _with_the_class_of_keras_hub(lm):
    import keras_hub

    lm.save_to_preset("preset")
    keras_hub.models.T5Gemma2Seq2SeqLM.from_preset("preset")


def headings():
    text = (FOLDER / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^## (.*)$", text, re.M)


@pytest.mark.parametrize("heading", [h for h in headings() if h not in NOT_TRIED])
def test_a_heading_of_troubleshooting_is_what_is_printed(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (trouble,) = (trouble for words, trouble in TROUBLES.items() if heading.startswith(words))
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    said = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            trouble(lm)
        except Exception as error:
            said.append(str(error))
    said += [str(warning.message) for warning in warned]
    assert any(heading in text for text in said), said


def test_it_can_be_built_and_every_page_and_public_name_is_in_it(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path).parent.as_posix() for path in tmp_path.rglob("index.html")}
    for path in FOLDER.rglob("*.md"):
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
        assert ("." if name == "index" else name) in built
    reference = "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "reference").rglob("index.html")
    )
    for name in keras_t5gemma2.__all__:
        assert f'id="keras_t5gemma2.{name}"' in reference, name
    assert "http://" not in re.sub(r'http://(127|localhost|www.w3)[^"<]*', "", reference)


def test_every_page_is_in_the_list_of_contents():
    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = set(re.findall(r"[\w/]+\.md", yaml.safe_dump(contents)))
    pages_of_ours = (path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.md"))
    # What `make gpu` writes is no page of the site.
    assert named == {page for page in pages_of_ours if not page.startswith("benchmarks/")}
    assert set(headings()) >= NOT_TRIED


def test_the_readme_of_an_index_has_links_with_an_address():
    """There, a path in the repository leads nowhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "readme" in project["project"]["dynamic"]
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for change in hook["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15 and all(link.startswith("https://") for link in links), links
