"""lm-evaluation-harness with our model and with its own, on the exported twin."""

import contextlib
import dataclasses
import io
import os

import numpy as np
import PIL.Image
import pytest
from tasks import ONE_LAYER, small_task, tiny_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.once  # tests/evaluation/test_continuations.py runs on each backend

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
lm_eval = pytest.importorskip("lm_eval")

from lm_eval import evaluator  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from keras_t5gemma2.lm_eval import T5Gemma2HarnessLM  # noqa: E402

# The reference wants a width that the heads divide.
RANDOM = dataclasses.replace(
    ONE_LAYER,
    encoder=dataclasses.replace(ONE_LAYER.encoder, hidden_dim=30),
    decoder=dataclasses.replace(ONE_LAYER.decoder, hidden_dim=30),
)
# The context, and what may come after it.
PAIRS = [
    ("Spell 7 in German.", " sieben"),
    ("Spell 7 in German.", "sieben"),
    ("Spell 7 in German.", "acht und neun"),
    ("Spell 4268 in German. ", "viertausend"),
    ("Spell 7 in German.\n\n", "<bos>acht"),
    ("a b c d", "what is in the garden"),
    ("<bos>a dog", " a cat"),
    ("   ", "x"),
    ("", "sieben"),
    ("", "<bos>acht"),
]
ROWS = [
    {"question": "Spell 7 in German.", "right": "sieben", "wrong": "acht"},
    {"question": "Spell 42 in German.", "right": "zweiundvierzig", "wrong": "einundvierzig"},
    {"question": "Write 2026-12-17 in French.", "right": "17 décembre 2026", "wrong": "7 mai 2026"},
    {"question": "Spell 77 in Spanish.", "right": "setenta y siete", "wrong": "ochenta"},
]


def data(**_):
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    return {"test": rows, "train": rows.select([1, 3])}


COMMON = {
    "custom_dataset": data,
    "test_split": "test",
    "fewshot_split": "train",
    "doc_to_text": "{{question}}",
    "metadata": {"version": 1},
}
GENERATE = {
    **COMMON,
    "output_type": "generate_until",
    "doc_to_target": "{{right}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16},
    "metric_list": [{"metric": "exact_match"}],
}
CHOOSE = {
    **COMMON,
    "output_type": "multiple_choice",
    "doc_to_target": 0,
    "doc_to_choice": "{{[right, wrong]}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TASKS = [
    {**GENERATE, "task": "spell"},
    {**CHOOSE, "task": "choose"},
    {**CHOOSE, "task": "choose_after_examples", "num_fewshot": 2, "target_delimiter": " "},
]


@pytest.fixture(scope="module")
def embedded():
    return T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")


@pytest.fixture(scope="module")
def twin(embedded, tmp_path_factory):
    return hf(embedded, tmp_path_factory.mktemp("twin"))


def hf(lm, directory):
    """The harness's own model, on what `lm` exports."""
    from lm_eval.models.huggingface import HFLM

    lm.export_to_transformers(directory)
    options = {"device": "cpu", "dtype": "float32", "batch_size": 2, "max_length": 512}
    return HFLM(pretrained=str(directory), backend="seq2seq", **options)


def requests(kind, arguments):
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.fixture(autouse=True)
def _machine_is_not_described(monkeypatch):
    """Which takes seconds."""
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)


def evaluated(model, tasks=TASKS, **options):
    """The metrics by task, and what the model answered, row by row."""
    # The harness has 13,000 tasks of its own, which take a minute to list.
    options = {"task_manager": TaskManager(include_defaults=False), **options}
    options = {"bootstrap_iters": 0, "log_samples": True, **options}
    with contextlib.redirect_stderr(io.StringIO()):
        found = lm_eval.simple_evaluate(model, tasks=[dict(task) for task in tasks], **options)
    samples = {
        name: [sample["resps"] for sample in sorted(of_task, key=lambda s: s["doc_id"])]
        for name, of_task in found["samples"].items()
    }
    metrics = {
        name: {key: value for key, value in of_task.items() if "," in key and "err" not in key}
        for name, of_task in found["results"].items()
    }
    return metrics, samples


@pytest.mark.slow
def test_tasks_have_the_results_of_the_harness_own_model(embedded, twin):
    want, want_samples = evaluated(twin)
    assert want["spell"]["exact_match,none"] == 1 and want["choose"]["acc,none"] == 1
    for batch_size in (1, 3):
        metrics, samples = evaluated(T5Gemma2HarnessLM(embedded, batch_size=batch_size))
        assert metrics == want
        assert samples["spell"] == want_samples["spell"]
        for name in ("choose", "choose_after_examples"):
            for got, of_twin in zip(samples[name], want_samples[name], strict=True):
                for (score, is_greedy), (want_score, want_greedy) in zip(
                    [one[0] for one in got], [one[0] for one in of_twin], strict=True
                ):
                    assert abs(score - want_score) < 1e-4 and is_greedy == want_greedy


@pytest.mark.parametrize("is_embedded", [True, False], ids=["embedded", "random"])
def test_scores_are_those_of_the_harness_own_model(is_embedded, embedded, twin, tmp_path):
    """With empty contexts, spaces between the two, start tokens, and any number of rows."""
    lm = embedded if is_embedded else small_task(RANDOM)
    reference = twin if is_embedded else hf(lm, tmp_path)
    want = reference.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for batch_size in (1, 2, "auto"):
        ours = T5Gemma2HarnessLM(lm, batch_size=batch_size)
        found = ours.loglikelihood(requests("loglikelihood", PAIRS))
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in want], atol=1e-4)
        assert [x for _, x in found] == [x for _, x in want]
        assert all(type(x) is float and type(y) is bool for x, y in found)


def test_texts_end_before_their_stops_as_those_of_the_harness_own_model(embedded, twin):
    arguments = [
        ("Spell 7 in German.", {"until": ["\n"], "max_gen_toks": 16}),
        ("Spell 4268 in German.", {"until": ["undert"], "max_gen_toks": 20}),
        ("Write 2026-12-17 in French.", {"until": "cembre", "do_sample": False}),
        ("<bos>Spell 77 in Spanish.", {"until": [], "temperature": 0}),
        ("Spell 4268 in German.", {"until": [], "max_gen_toks": 20, "num_beams": 2}),
    ]
    want = twin.generate_until(requests("generate_until", arguments), disable_tqdm=True)
    ours = T5Gemma2HarnessLM(embedded, batch_size=4)
    assert ours.generate_until(requests("generate_until", arguments)) == want
    assert want[1:3] == ["viertausendzweih", "17 dé"]
    empty = [(arguments[1][0], {"until": ["undert", ""], "max_gen_toks": 20})]
    assert ours.generate_until(requests("generate_until", empty)) == want[1:2]
    drawn = [("Spell 7 in German.", {"do_sample": True, "temperature": 1.0, "seed": 1, "top_k": 1})]
    assert ours.generate_until(requests("generate_until", drawn)) == ["sieben"]
    with pytest.raises(ValueError, match=r"asks for what `generate` has not: \['typical_p'\]"):
        ours.generate_until(requests("generate_until", [("a", {"typical_p": 0.5})]))


def test_dialogues_are_written_as_the_exported_template_writes_them(embedded, twin):
    ours = T5Gemma2HarnessLM(embedded)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Spell 7."},
        {"role": "assistant", "content": " sie "},
    ]
    for asked in ((messages[:2], True), (messages, False)):
        assert ours.apply_chat_template(*asked) == twin.apply_chat_template(*asked)
    assert ours.chat_template(True) == twin.chat_template(True)
    assert ours.chat_template(False) is None
    options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "num_fewshot": 1}
    tasks = [{**CHOOSE, "task": "choose"}]
    metrics, samples = evaluated(ours, tasks, **options)
    want, want_samples = evaluated(twin, tasks, **options)
    assert metrics == want
    scores, wants = (
        [float(one[0][0]) for row in found["choose"] for one in row]
        for found in (samples, want_samples)
    )
    np.testing.assert_allclose(scores, wants, atol=1e-4)
    end = embedded.preprocessor.tokenizer.token_to_id("<end_of_turn>")
    ids = [lm._end().stop_token_ids for lm in (ours, T5Gemma2HarnessLM(embedded))]
    assert end in ids[0] and end not in ids[1]


def test_images_stand_where_the_task_puts_them():
    lm = tiny_task()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), "uint8")
    one, two, three = map(PIL.Image.fromarray, pixels)
    ours = T5Gemma2HarnessLM(lm, batch_size=2)
    marked = "a <start_of_image> and <start_of_image> the cat"
    first = " ".join(["<start_of_image>"] * 1) + " the cat"
    arguments = [
        ("a <image> and <image> the cat", " a dog", {"visual": [one, two]}),
        ("a <image> and <image> the cat", " a bee", {"visual": [one, two]}),
        ("the cat", " a dog", {"visual": [three]}),
    ]
    found = ours.loglikelihood(requests("loglikelihood", arguments))
    rows = {
        "encoder_text": [marked, marked, first],
        "images": [[one, two], [one, two], [three]],
        "decoder_text": [" a dog", " a bee", " a dog"],
    }
    want = lm.score(rows, end_token=False, is_greedy=True)
    np.testing.assert_allclose([score for score, _ in found], want[0], rtol=1e-5)
    assert [is_greedy for _, is_greedy in found] == want[1].tolist()
    options = {"until": [], "max_gen_toks": 4}
    arguments = [(context, options, seen) for context, _, seen in arguments]
    texts = ours.generate_until(requests("generate_until", arguments))
    del rows["decoder_text"]
    assert texts == lm.generate(rows, max_new_tokens=4)


def test_the_perplexity_of_a_text_is_refused_with_the_reason(embedded):
    with pytest.raises(NotImplementedError, match="after an input, and here there is none"):
        T5Gemma2HarnessLM(embedded).loglikelihood_rolling(requests("", [("a",)]))


@pytest.mark.slow
def test_long_contexts_are_read_whole_or_from_their_end(embedded):
    lm = small_task()
    lm.preprocessor.encoder_sequence_length = 8
    text = "the cat and a dog and a red bee and a house in the garden"
    pairs = requests("loglikelihood", [(text, " a"), (text[4:], " a")])
    (whole, _), (other, _) = T5Gemma2HarnessLM(lm).loglikelihood(pairs)
    assert lm.preprocessor.encoder_sequence_length == 8 and abs(whole - other) > 1e-4
    count = len(lm.preprocessor.tokenizer(text))
    offsets = lm.preprocessor.tokenizer.tokenize_with_offsets(text)[1]
    (want, _), _ = T5Gemma2HarnessLM(lm).loglikelihood(
        requests("loglikelihood", [(text[offsets[3][0] :], " a"), ("", " a")])
    )
    with pytest.warns(UserWarning, match=f"Of 1 contexts .* up to {count + 1}, and max_length="):
        (found,) = T5Gemma2HarnessLM(lm, max_length=count - 2).loglikelihood(pairs[:1])
    assert found[0] == pytest.approx(want, abs=1e-5)
    texts = [T5Gemma2HarnessLM(lm).generate_until(requests("generate_until", [(text, {})]))]
    lm.preprocessor.encoder_sequence_length = 64
    assert texts == [T5Gemma2HarnessLM(lm).generate_until(requests("generate_until", [(text, {})]))]


def test_a_model_is_made_of_an_argument_string(tmp_path):
    from lm_eval.api.registry import get_model

    cls = get_model("keras_t5gemma2")
    assert cls is T5Gemma2HarnessLM
    text = "pretrained=t5gemma2_tiny,dtype=bfloat16,batch_size=4,max_length=128,text_only=True"
    ours = cls.create_from_arg_string(text, {"max_batch_size": None, "device": None})
    assert ours.lm.backbone.compute_dtype == "bfloat16" and ours.lm.backbone.vision is None
    assert (ours.batch_size, ours.max_length, ours.tokenizer_name) == (4, 128, "t5gemma2_tiny")
    assert ours.get_model_info()["model_dtype"] == "bfloat16"
    assert cls(ours.lm, batch_size="auto:4", max_batch_size=8).batch_size == 8
    for value in (0, "many", True, 1.5):
        with pytest.raises(ValueError, match=f"`batch_size` must be .*{value}"):
            cls(ours.lm, batch_size=value)
    with pytest.raises(TypeError, match="is taken as it is. Received: `pretrained`"):
        cls(ours.lm, dtype="float32")
    with pytest.raises(TypeError, match="quantise"):
        cls("t5gemma2_tiny", quantise="int8")
    with pytest.warns(UserWarning, match="`device` has no effect"):
        cls(ours.lm, device="cuda:0")
    lm = small_task()
    lm.preprocessor = None
    with pytest.raises(ValueError, match="must have a preprocessor"):
        cls(lm)
