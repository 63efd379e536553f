"""The options of a call: changed samplers, threads, and attributes that stay as they were."""

import contextlib
import gc
import os
import pathlib
import threading

import keras
import keras_hub
import numpy as np
import pytest
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import tiny_backbone, token_inputs

from keras_t5gemma2 import BeamSearch, T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import compiled_steps, decoding

IS_COMPILED = keras.config.backend() != "torch"


def new_task(sampler):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(ONE_LAYER))
    lm.compile(sampler=sampler)
    return lm


def ids(lm, inputs, how="generate", new=12, **options):
    options = {"stop_token_ids": None, "max_new_tokens": new, **options}
    if how == "stream":
        return [id for _, id in lm.stream(inputs, **options)]
    return lm.generate(inputs, strip_prompt=True, **options)["decoder_token_ids"][0, :new].tolist()


# The sampler after `compile`


@pytest.mark.once
@pytest.mark.parametrize("how", ["generate", "stream"])
def test_a_changed_sampler_takes_effect(rng, how):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task(keras_hub.samplers.TopKSampler(k=5, seed=3, temperature=50.0))
    drawn = ids(lm, inputs, how)
    lm.sampler.seed = 4
    assert ids(lm, inputs, how) != drawn
    lm.sampler.k = 1
    greedy = ids(lm, inputs, how)
    assert greedy == ids(lm, inputs, how) != drawn
    lm.sampler = keras_hub.samplers.TopKSampler(k=5, seed=3, temperature=50.0)
    assert ids(lm, inputs, how) == drawn


@pytest.mark.once
def test_temperatures_and_random_states_take_effect(rng):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task("greedy")
    greedy = ids(lm, inputs)
    lm.sampler = keras_hub.samplers.TopKSampler(k=5, seed=3, temperature=50.0)
    drawn = ids(lm, inputs)
    lm.sampler.temperature = 1e-6
    assert ids(lm, inputs) == greedy != drawn
    lm.sampler.temperature = 50.0
    assert ids(lm, inputs) != greedy

    lm.sampler.seed = 4
    other = ids(lm, inputs)
    lm.sampler.seed = 3
    assert ids(lm, inputs) == drawn != other
    lm.sampler.seed_generator = keras.random.SeedGenerator(4)
    assert ids(lm, inputs) == other


@pytest.mark.once
def test_the_rest_of_a_sampler_takes_effect(rng):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task(keras_hub.samplers.TopPSampler(p=0.9, seed=1, temperature=50.0))
    ids(lm, inputs)
    lm.sampler.p = 1e-6
    lm.sampler.temperature = 1.0
    greedy = ids(new_task("greedy"), inputs)
    assert ids(lm, inputs) == greedy

    lm.sampler = keras_hub.samplers.BeamSampler(num_beams=4)
    assert type(lm.sampler) is BeamSearch
    beams = ids(lm, inputs)
    lm.sampler.num_beams = 1
    assert ids(lm, inputs) == greedy != beams
    lm.sampler = "greedy"
    assert ids(lm, inputs) == greedy


class Forbidding(keras_hub.samplers.Sampler):
    """Greedy, but for ids that it does not take: an attribute that no config knows."""

    def __init__(self):
        super().__init__()
        self.forbidden = np.array([0])

    def get_next_token(self, probabilities):
        ids = np.arange(probabilities.shape[-1])
        free = keras.ops.convert_to_tensor(~np.isin(ids, self.forbidden))
        return keras.ops.argmax(keras.ops.where(free, probabilities, 0.0), axis=-1)


@pytest.mark.once
def test_an_attribute_that_no_config_knows_takes_effect(rng):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task(Forbidding())
    first = ids(lm, inputs)
    lm.sampler.forbidden[0] = first[0]
    assert first[0] not in ids(lm, inputs)


def test_nothing_is_compiled_anew_for_what_did_not_change(rng, monkeypatch):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task(keras_hub.samplers.RandomSampler(seed=1))
    traced, step = [], decoding.step
    monkeypatch.setattr(decoding, "step", lambda *args: traced.append(1) or step(*args))
    ids(lm, inputs)
    traced.clear()
    lm.sampler.seed = 7  # which only moves the state
    lm.sampler.temperature = 1.0
    ids(lm, inputs)
    assert len(traced) == (0 if IS_COMPILED else 12)


# Options of a call


@pytest.mark.once
def test_a_call_leaves_every_attribute_as_it_was(rng, monkeypatch):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task("greedy")
    before = ids(lm, inputs), lm.jit_compile
    seen, prefill = [], decoding.prefill

    def watched(*args, **kwargs):
        seen.append((lm.cross_attention_cache, lm.jit_compile, args[2].shared != ()))
        return prefill(*args, **kwargs)

    monkeypatch.setattr(decoding, "prefill", watched)
    lm.generate_function = None
    assert ids(lm, inputs, cross_attention_cache="shared") == before[0]
    assert ids(lm, inputs, "stream", cross_attention_cache="shared") == before[0]
    assert seen == [("auto", before[1], True)] * 2
    with pytest.raises(ValueError, match="cross_attention_cache='tiny'"):
        ids(lm, inputs, "stream", cross_attention_cache="tiny")


@pytest.mark.once
def test_a_step_of_training_leaves_calls_of_other_threads_alone():
    lm = small_task()
    x, _, _ = lm.preprocess_samples(SMALL_ROWS)
    x = lm.backbone.complete(x)
    shapes = []
    with lm._without_logits():
        here = lm(x).shape[-1]
        other = threading.Thread(target=lambda: shapes.append(lm(x).shape[-1]))
        other.start()
        other.join()
    assert here == lm.backbone.config.hidden_dim
    assert shapes == [lm.backbone.config.vocabulary_size] == [lm(x).shape[-1]]


@pytest.mark.once
def test_threads_generate_what_one_gives(rng):
    """Also while they trace, with caches of their own, and while others stream."""
    lm = new_task("greedy")
    every = [token_inputs(rng, (n,), (1,)) for n in (5, 9, 13, 3)]
    calls = [
        (every[i], how, {"cross_attention_cache": kind})
        for i, (how, kind) in enumerate(
            [("generate", "shared"), ("stream", "projected"), ("generate", "auto")] * 2
        )
        if i < 4
    ]
    found, start = {}, threading.Barrier(len(calls))

    def run(number):
        inputs, how, options = calls[number]
        start.wait()
        found[number] = [ids(lm, inputs, how, **options) for _ in range(2)]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lm.cross_attention_cache == "auto"
    for number, (inputs, _, _) in enumerate(calls):
        assert found[number] == [ids(lm, inputs)] * 2


@pytest.mark.once
def test_threads_that_draw_take_turns(rng):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task(keras_hub.samplers.RandomSampler(seed=1, temperature=100.0))
    want = sorted(ids(lm, inputs) for _ in range(8))
    lm.compile(sampler=keras_hub.samplers.RandomSampler(seed=1, temperature=100.0))
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(ids(lm, inputs) for _ in range(2)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == want


# Programs that are kept


@pytest.mark.once
def test_few_programs_are_kept(rng, monkeypatch):
    monkeypatch.setattr(compiled_steps, "MOST_PROGRAMS", 2)
    lm = new_task("greedy")
    want = []
    for length in (3, 70, 3, 70, 3):
        inputs = token_inputs(np.random.default_rng(0), (length,), (1,))
        for new in (2, 40):
            want.append(ids(lm, inputs, new=new))
    assert want[:4] == want[4:8] and want[0] == want[8]
    assert len(lm.generator.programs) <= 2


# Interrupts


@pytest.mark.parametrize(
    "how",
    [
        "generate",
        *(pytest.param(x, marks=pytest.mark.once) for x in ("stream", "encode", "assistant")),
    ],
)
@pytest.mark.once
def test_after_an_interrupt_all_goes_on(rng, monkeypatch, how):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task("greedy")

    def run():
        if how == "encode":
            return ids(
                lm, {n: x for n, x in inputs.items() if "dec" in n}, encoded=lm.encode(inputs)
            )
        if how == "assistant":
            return ids(lm, inputs, assistant="prompt_lookup")
        return ids(lm, inputs, how)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    want = ids(new_task("greedy"), inputs)
    where = "remember" if how == "encode" else "read" if how == "assistant" else "step"
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(decoding, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                run()
        assert run() == want
        assert lm.cross_attention_cache == "auto"
        lm.generate_function = None


@pytest.mark.once
def test_a_stream_that_is_left_early_leaves_nothing_behind(rng):
    inputs = token_inputs(rng, (5,), (1,))
    lm = new_task("greedy")
    pieces = lm.stream(inputs, stop_token_ids=None, max_new_tokens=12)
    next(pieces)
    with contextlib.suppress(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt)
    assert ids(lm, inputs, "stream") == ids(lm, inputs)


def resident_megabytes():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="memory as Linux says it")
@pytest.mark.parametrize(
    ("kept", "calls"),
    [
        pytest.param(64, 500, id="kept"),
        pytest.param(
            3,
            120,
            id="dropped",
            marks=pytest.mark.skipif(
                keras.config.backend() == "tensorflow",
                reason="TensorFlow's XLA keeps its part of functions that go",
            ),
        ),
    ],
)
def test_memory_stays_what_it_is_over_many_calls(monkeypatch, kept, calls):
    """The second half of the calls needs no more than the first: programs that go give it back."""
    monkeypatch.setattr(compiled_steps, "MOST_PROGRAMS", kept)
    lm = new_task(keras_hub.samplers.RandomSampler(seed=1))
    rng = np.random.default_rng(0)
    sizes = [(length, new) for length in (5, 70, 200) for new in (3, 40)]
    sizes = [sizes[i] for i in rng.integers(0, len(sizes), calls)]
    used = []
    for number, (length, new) in enumerate(sizes):
        inputs = token_inputs(rng, (length - int(rng.integers(0, 4)),), (1,))
        if number % 50 == 49:
            list(lm.stream(inputs, stop_token_ids=None, max_new_tokens=3, verbose=0))
        lm.generate(inputs, stop_token_ids=None, max_new_tokens=new, verbose=0)
        if number % (calls // 4) == calls // 4 - 1:
            used.append(resident_megabytes())
    print("megabytes after each quarter:", [round(x) for x in used])
    assert len(lm.generator.programs) <= kept
    assert used[3] - used[1] < 40
