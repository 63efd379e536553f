"""A head that reads a part of the table: the same tokens, and a copy that is never stale."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tasks import small_task
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import screening
from keras_t5gemma2.generation.screening import HeadSteps

CONFIG = dataclasses.replace(SMALL_CONFIG, vocabulary_size=1024)
NEW = 9


def task(head="screened", dtype=None, seed=0, config=CONFIG, **options):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config, dtype, seed), head=head, **options)
    lm.compile(sampler="greedy")
    return lm


def tokens(lm, inputs, how="generate", **options):
    options = {"stop_token_ids": None, "max_new_tokens": NEW, **options}
    if how == "stream":
        found = [[] for _ in inputs["decoder_token_ids"]]
        for row, id in lm.stream(inputs, **options):
            found[row].append(id)
        return found
    ids = lm.generate(inputs, strip_prompt=True, **options)["decoder_token_ids"]
    return ids[:, :NEW].tolist()


def screened_and_exact(lm, inputs, how="generate", **options):
    """The tokens of both heads, and how many steps of the first were screened."""
    before = lm.head_steps
    lm.head = "screened"
    screened = tokens(lm, inputs, how, **options)
    steps = HeadSteps(*np.subtract(lm.head_steps, before).tolist())
    after = lm.head_steps
    lm.head = "exact"
    exact = tokens(lm, inputs, how, **options)
    assert lm.head_steps == after
    return screened, exact, steps


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.once
@pytest.mark.parametrize("rows", [3, *slow(1, 8)])
def test_greedy_tokens_are_those_of_the_whole_head(rng, rows):
    inputs = token_inputs(rng, [7] * rows, [2] * rows, side="left")
    screened, exact, steps = screened_and_exact(task(), inputs)
    assert screened == exact
    assert steps.screened == NEW and steps.full < NEW


@pytest.mark.slow
def test_greedy_tokens_in_half_precision(rng):
    inputs = token_inputs(rng, [7, 3], [2, 1], side="left")
    screened, exact, steps = screened_and_exact(task(dtype="bfloat16"), inputs)
    assert screened == exact and steps.screened == NEW


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stream", "generate"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"top_k": 5, "seed": 1},
        {"top_k": [1, 64], "top_p": 0.9, "seed": 2},
    ],
    ids=str,
)
def test_streams_and_draws_from_few_tokens_are_screened(rng, how, options):
    """Random numbers are the host's, so that even what is drawn is the same."""
    inputs = token_inputs(rng, [7, 3], [2, 1], side="left")
    screened, exact, steps = screened_and_exact(task(), inputs, how, **options)
    assert screened == exact and steps.screened == NEW


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"logits_processor": [lambda ids, logits: -logits]},
        {"top_k": [5, 0], "seed": 1},
        *slow({"top_k": 65, "seed": 1}, {"top_p": 0.9, "seed": 1}, {"num_beams": 2}),
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_the_bounds_do_not_cover_gets_all_logits(rng, options):
    inputs = token_inputs(rng, [7, 3], [2, 1], side="left")
    screened, exact, steps = screened_and_exact(task(), inputs, **options)
    assert screened == exact and steps == (0, 0)


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["top_k", *slow("top_p", "random", "beam", "contrastive")])
def test_other_samplers_get_all_logits(rng, sampler):
    lm = task()
    lm.compile(sampler=sampler)
    tokens(lm, token_inputs(rng, [7], [2]))
    assert lm.head_steps == (0, 0)


@pytest.mark.once
def test_words_and_constraints_get_all_logits_and_stops_do_not():
    from keras_t5gemma2 import constraints

    lm = small_task()
    lm.head = "screened"
    lm.generate("the cat", bad_words="e", max_new_tokens=3)
    lm.generate("the cat", constraint=constraints.choice(["a dog", "a bee"]), max_new_tokens=3)
    assert lm.head_steps == (0, 0)
    lm.generate("the cat", stop="zzz", max_new_tokens=3, stop_token_ids=None)
    assert lm.head_steps.screened == 3


@pytest.mark.once
def test_more_than_eight_rows_get_all_logits(rng):
    screened, exact, steps = screened_and_exact(task(), token_inputs(rng, [5] * 9, [1] * 9))
    assert screened == exact and steps == (0, 0)


@pytest.mark.once
def test_log_probs_are_those_of_all_logits(rng):
    lm = task()
    inputs = token_inputs(rng, [7], [2])
    options = {"stop_token_ids": None, "max_new_tokens": 4, "return_scores": True}
    screened = lm.generate(inputs, **options)
    assert lm.head_steps.screened == 4
    lm.head = "exact"
    exact = lm.generate(inputs, **options)
    np.testing.assert_array_equal(screened.log_probs[0], exact.log_probs[0])


@pytest.mark.slow
def test_proposals_are_checked_by_it(rng):
    inputs = token_inputs(rng, [7], [2])
    lm, assistant = task(), task(seed=1)
    for helper in ("prompt_lookup", assistant):
        screened, exact, steps = screened_and_exact(lm, inputs, assistant=helper)
        assert screened == exact and steps.screened > 0
    assert assistant.head_steps.screened > 0


@pytest.mark.skipif(keras.config.backend() != "torch", reason="elsewhere all is compiled")
def test_it_stays_outside_of_what_torch_compiles(rng, monkeypatch):
    """The compiler knows the sizes of all tensors, and candidates are any number."""
    import torch

    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    lm = task()
    eager = tokens(lm, token_inputs(np.random.default_rng(0), [7, 3], [2, 1]))
    lm.compile(sampler="greedy", jit_compile=True)
    for seed in (0, 1):
        inputs = token_inputs(np.random.default_rng(seed), [7, 3], [2, 1])
        screened, exact, steps = screened_and_exact(lm, inputs)
        assert screened == exact and steps.screened == NEW
        assert seed or screened == eager


# Where candidates do not fit


@pytest.mark.once
def test_steps_without_room_for_candidates_are_counted(rng):
    lm = task()
    table = lm.backbone.token_embedding.embeddings
    table.assign(np.tile(rng.standard_normal((1, 28)), (1024, 1)))  # all tokens are equal
    screened, exact, steps = screened_and_exact(lm, token_inputs(rng, [7], [2]))
    assert screened == exact == [[0] * NEW]
    assert steps == (NEW, NEW)


@pytest.mark.once
@pytest.mark.parametrize("value", [np.nan, *slow(np.inf)])
def test_a_table_that_is_not_finite_is_still_an_error(rng, value):
    lm = task()
    table = lm.backbone.token_embedding.embeddings
    values = ops.convert_to_numpy(table).copy()
    values[1000, 3] = value
    table.assign(values)
    with pytest.raises(ValueError, match=r"logits of new token 1 of row 0 are not finite"):
        tokens(lm, token_inputs(rng, [7], [2]))


# The copy


def other_table(lm, seed=5):
    shape = lm.backbone.token_embedding.embeddings.shape
    return np.random.default_rng(seed).standard_normal(shape).astype("float32") * 0.2


def by_assign(lm):
    lm.backbone.token_embedding.embeddings.assign(other_table(lm))


def by_set_weights(lm):
    weights = lm.get_weights()
    place = [w.path for w in lm.weights].index(lm.backbone.token_embedding.embeddings.path)
    weights[place] = other_table(lm)
    lm.set_weights(weights)


def by_one_row(lm):
    """That of a token that comes up now, moved away."""
    table = lm.backbone.token_embedding.embeddings
    values = ops.convert_to_numpy(table).copy()
    values[values.argmax(axis=0)] *= -1
    table.assign(values)


def by_fit(lm):
    rng = np.random.default_rng(0)
    inputs = token_inputs(rng, [7, 5], [6, 6])
    lm.compile(sampler="greedy", optimizer=keras.optimizers.SGD(1.0))
    lm.fit(inputs, rng.integers(8, 1000, (2, 6)), epochs=2, verbose=0)


CHANGES = [by_assign, *slow(by_set_weights, by_one_row, by_fit)]


@pytest.mark.once
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_copy_is_that_of_the_table_as_it_is(rng, change):
    lm, inputs = task(), token_inputs(rng, [7, 3], [2, 1], side="left")
    before = tokens(lm, inputs)
    change(lm)
    kept = lm.generator.screening
    screened, exact, steps = screened_and_exact(lm, inputs)
    assert screened == exact != before and steps.screened == NEW
    assert kept._screen is None  # "exact" needs none


@pytest.mark.once
def test_the_copy_is_made_anew_for_another_table_alone(rng, monkeypatch):
    made, mark_of = [], screening.kernels.mark_of  # of each copy
    monkeypatch.setattr(screening.kernels, "mark_of", lambda x: made.append(1) or mark_of(x))
    lm, inputs = task(), token_inputs(rng, [7], [2])
    for _ in range(3):
        tokens(lm, inputs)
        tokens(lm, inputs, "stream")
    assert len(made) == 1
    by_assign(lm)
    tokens(lm, inputs)
    tokens(lm, inputs)
    assert len(made) == 2


@pytest.mark.once
def test_files_and_adapters_renew_it(tmp_path):
    lm, other = small_task(), small_task(seed=1)
    lm.head = "screened"
    options = {"max_new_tokens": 5, "stop_token_ids": None}
    other.save_weights(str(tmp_path / "other.weights.h5"))
    before = lm.generate("the cat", **options)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    lm.save_weights(str(tmp_path / "mine.weights.h5"))  # the copy is in no file
    assert (tmp_path / "mine.weights.h5").stat().st_size == size
    lm.load_weights(str(tmp_path / "other.weights.h5"))
    after = lm.generate("the cat", **options)
    assert after == other.generate("the cat", **options) != before

    for name in ("enable_lora", "merge_adapter"):
        getattr(lm, name)(*([4] if name == "enable_lora" else []))
        lm.head = "screened"
        screened = lm.generate("the cat", **options)
        lm.head = "exact"
        assert lm.generate("the cat", **options) == screened


@pytest.mark.once
def test_another_vocabulary_has_a_copy_of_its_own():
    lm = small_task()
    lm.head = "screened"
    options = {"max_new_tokens": 5, "stop_token_ids": None}
    lm.generate("the cat", **options)
    small = lm.prune_vocabulary(["the cat and a dog"])
    assert small.head == "screened"
    screened = small.generate("the cat", **options)
    assert small.head_steps.screened == 5
    small.head = "exact"
    assert small.generate("the cat", **options) == screened


@pytest.mark.once
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_tables_are_read_whole(mode):
    lm = small_task()
    lm.head = "screened"
    lm.generate("the cat", max_new_tokens=3, stop_token_ids=None)
    steps = lm.head_steps
    lm.quantize(mode)
    lm.generate("the cat", max_new_tokens=3, stop_token_ids=None)
    assert lm.head_steps == steps and lm.generator.screening._screen is None


@pytest.mark.once
def test_logits_of_another_kind_are_left_alone(rng):
    class Tilted(T5Gemma2Seq2SeqLM):
        def logits(self, hidden):
            return super().logits(hidden) * -1

    lm = Tilted(tiny_backbone(CONFIG), head="screened")
    lm.compile(sampler="greedy")
    tokens(lm, token_inputs(rng, [7], [2]))
    capped = task(config=dataclasses.replace(CONFIG, final_logit_soft_cap=3.0))
    tokens(capped, token_inputs(rng, [7], [2]))
    mixed = task(dtype="mixed_bfloat16")
    tokens(mixed, token_inputs(rng, [7], [2]))
    assert lm.head_steps == capped.head_steps == mixed.head_steps == (0, 0)


# The option


@pytest.mark.once
def test_the_option_is_checked_kept_and_read_when_a_call_begins(rng):
    with pytest.raises(ValueError, match=r"`head` must be one of .*'screened'.* head='fast'"):
        task("fast")
    lm = task("screened")
    with pytest.raises(ValueError, match=r"head='fast'"):
        lm.head = "fast"
    assert lm.head == lm.get_config()["head"] == "screened"
    again = T5Gemma2Seq2SeqLM.from_config(lm.get_config())
    assert again.head == "screened"
    without = {name: value for name, value in lm.get_config().items() if name != "head"}
    assert T5Gemma2Seq2SeqLM.from_config(without).head == "auto"


@pytest.mark.once
def test_auto_goes_by_size_dtype_rows_and_room(rng, monkeypatch):
    large, inputs = 64 << 20, token_inputs(rng, [7], [2])
    assert screening.is_worthwhile("float32", large // 4, rows=1, room=64)
    assert not screening.is_worthwhile("float32", large // 4 - 1, rows=1, room=64)
    assert not screening.is_worthwhile("float32", large, rows=1, room=32)
    assert not screening.is_worthwhile("float32", large, rows=8, room=64)
    assert not screening.is_worthwhile("bfloat16", large, rows=1, room=64)
    lm = task("auto")
    tokens(lm, inputs, max_new_tokens=40)
    assert lm.head_steps == (0, 0)
    monkeypatch.setattr(screening, "_FEWEST_BYTES", 1)
    tokens(lm, inputs, max_new_tokens=40)
    assert lm.head_steps.screened == 40
    tokens(lm, inputs, max_new_tokens=32)
    assert lm.head_steps.screened == 40


@pytest.mark.once
def test_warmup_compiles_what_generate_runs(rng, monkeypatch):
    lm = task()
    lm.warmup(7, new_tokens=NEW, prompt_length=2, stop_token_ids=None)
    count = len(lm.generator.programs)
    tokens(lm, token_inputs(rng, [7], [2]))
    assert len(lm.generator.programs) == count
