"""Beam search against the rule written out in Python, and against transformers."""

import functools

import keras
import keras_hub
import numpy as np
import pytest
import torch
import transformers
from keras import ops, tree
from transformers.modeling_outputs import CausalLMOutput

from keras_t5gemma2.generation import beam_search
from keras_t5gemma2.generation.beam_search import BeamSearch

MODES = {  # the quickest first
    "jax": ["jit", "eager"],
    "tensorflow": ["graph", "any_shape", "xla", "eager"],
    "torch": ["eager"],
}[keras.backend.backend()]

STATES, VOCABULARY, LENGTH, FILLER = 31, 11, 13, -1
RULES = [  # beams, length penalty, early stopping, stop tokens
    (1, 1.0, False, (3,)),
    (2, 1.0, False, (3,)),
    (3, 1.0, True, (3, 7)),
    (3, 1.0, "never", (3, 7)),
    (3, -0.7, "never", (3, 7, 10)),
    (4, 0.0, False, (2, 3, 7)),
    (4, 0.4, "never", (3,)),
    (4, 2.5, True, (2, 3, 7)),
    (5, -1.5, "never", (3, 7, 10)),
    (5, -0.4, False, (3, 7)),
    (5, 0.6, True, (3,)),
    (5, 1.3, False, (2, 3, 5, 7)),
    (5, 1.0, False, None),
]


def rules(*numbers):
    """Parameters of all rules; each is a program to compile, so elsewhere than on torch few are."""
    once = {"marks": pytest.mark.once}
    return [pytest.param(rule, **({} if i in numbers else once)) for i, rule in enumerate(RULES)]


# The language of these tests: what comes next depends on the slot and on a state that all tokens
# before it have made. So a beam with another beam's cache goes astray, and no two sequences tie.


def random_table(seed):
    spread = 4 if seed % 4 > 1 else 2  # Where the model is surer, other beams can catch up.
    table = np.random.default_rng(seed).normal(0, spread, (LENGTH, STATES, VOCABULARY))
    return table.astype("f4")


def random_prompts(seed, rows=3, tokens=1):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, tokens), "int32")


def state_after(state, token):
    return (3 * state + token) % STATES


def state_of(tokens):
    return functools.reduce(state_after, tokens, 0)


def by_the_rule(table, prompt, length, beams, penalty, early_stopping, stops):
    """Ended (score, tokens) of one row, best first."""
    running, pool, stops = [(0.0, list(prompt))], [], stops or ()
    for index in range(len(prompt), length):
        candidates = []
        for total, tokens in running:
            logits = table[index, state_of(tokens)].astype("f8")
            log_probs = logits - np.log(np.sum(np.exp(logits)))
            candidates += [(total + log_probs[t], [*tokens, t]) for t in range(VOCABULARY)]
        candidates.sort(reverse=True)
        generated, is_last = index + 1 - len(prompt), index + 1 == length
        for total, tokens in candidates[:beams]:
            if is_last or tokens[-1] in stops:
                pool.append((total / generated**penalty, tokens))
        pool = sorted(pool, reverse=True)[:beams]
        running = [c for c in candidates if c[1][-1] not in stops][:beams]
        hoped = length - len(prompt) if early_stopping == "never" and penalty > 0 else generated
        if len(pool) == beams and (
            early_stopping is True or running[0][0] / hoped**penalty <= pool[-1][0]
        ):
            break
    return pool


def padded(tokens, length=LENGTH):
    return [*tokens, *[FILLER] * (length - len(tokens))]


def searcher(sampler, stops, mode=MODES[0], bounded=False, **kwargs):
    """A function of (table, prompts) to numpy arrays, compiled once."""

    def function(table, prompts, states, index, steps):
        def next(prompt, cache, index):
            cache = state_after(cache, ops.take(prompt, index - 1, axis=1))
            return ops.take(ops.take(table, index, axis=0), cache, axis=0), None, cache

        run = with_steps(sampler, steps) if bounded else sampler
        return run(next, prompts, states, index, stop_token_ids=stops, **kwargs)

    compiled = MODE[mode](function)

    def call(table, prompts, index=None, length=LENGTH, steps=LENGTH):
        index = prompts.shape[1] if index is None else index
        states = np.array([state_of(p[: index - 1]) for p in prompts], "int32")
        prompts = np.array([padded(p, length) for p in prompts], "int32")
        inputs = (table, prompts, states, np.int32(index), np.int32(steps))
        inputs = [ops.convert_to_tensor(x) for x in inputs]
        return tree.map_structure(ops.convert_to_numpy, compiled(*inputs))

    return call


def with_steps(sampler, steps):
    """The sampler with a tighter bound on its loop, traced."""

    def run(next, prompt, states, index, stop_token_ids, mask=None):
        arguments = prompt, states, index, mask, tuple(stop_token_ids or ())
        return beam_search.search(sampler, next, *arguments, steps=steps)

    return run


def jit(function):
    import jax

    return jax.jit(function)


def graph(function, **kwargs):
    import tensorflow as tf

    return tf.function(function, **kwargs)


def any_shape(function):
    import tensorflow as tf

    shapes = [(LENGTH, STATES, VOCABULARY), (None, None), (None,), (), ()]
    dtypes = ["float32", "int32", "int32", "int32", "int32"]
    return graph(function, input_signature=[*map(tf.TensorSpec, shapes, dtypes)])


MODE = {
    "eager": lambda function: function,
    "jit": jit,
    "graph": graph,
    "any_shape": any_shape,
    "xla": functools.partial(graph, jit_compile=True),
}


@pytest.mark.compiled
@pytest.mark.parametrize("rule", rules(1, 3, 7, 8, 12), ids=str)
def test_gives_what_the_rule_gives(rule):
    search, ends = search_of_all_beams(rule), set()
    for seed in range(12):
        ends |= compare_with_the_rule(search, rule, seed)
    # The comparison means little unless sequences end at many lengths.
    assert len(ends) >= 5 or rule[-1] is None


@pytest.mark.once
@pytest.mark.parametrize("rule", rules(3)[2:6], ids=str)
def test_a_tighter_loop_is_a_shorter_prompt(rule):
    search = search_of_all_beams(rule, bounded=True)
    for steps in (1, 5, 7):
        compare_with_the_rule(search, rule, seed=steps, steps=steps)


@pytest.mark.parametrize("mode", MODES)
def test_gives_the_same_however_it_is_compiled(mode):
    for seed in (0, 1):
        search = search_of_all_beams(RULES[3], mode, bounded=True)
        compare_with_the_rule(search, RULES[3], seed, steps=7)


@functools.cache
def search_of_all_beams(rule, mode=MODES[0], bounded=False):
    *settings, stops = rule
    return searcher(BeamSearch(*settings, return_all_beams=True), stops, mode, bounded)


def compare_with_the_rule(search, rule, seed, steps=LENGTH):
    """Where the sequences ended."""
    table, prompts = random_table(seed), random_prompts(seed, tokens=1 if seed % 2 else 4)
    sequences, scores = search(table, prompts, steps=steps)
    pools = [by_the_rule(table, p, min(len(p) + steps, LENGTH), *rule) for p in prompts]
    assert sequences.tolist() == [[padded(tokens) for _, tokens in pool] for pool in pools]
    np.testing.assert_allclose(scores, [[score for score, _ in pool] for pool in pools], rtol=1e-5)
    return {len(tokens) for pool in pools for _, tokens in pool}


# transformers


class TableConfig(transformers.PretrainedConfig):
    model_type = "table"


class TableModel(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The language of these tests as a transformers model, for its own `generate`."""

    config_class = TableConfig

    def __init__(self, table):
        super().__init__(TableConfig(vocab_size=VOCABULARY, num_hidden_layers=0))
        self.table = torch.nn.Parameter(torch.tensor(table))

    def forward(self, input_ids, **kwargs):
        states = [state_of(tokens) for tokens in input_ids.tolist()]
        return CausalLMOutput(logits=self.table[input_ids.shape[1], states][:, None])


def by_transformers(model, rule, length=LENGTH, **kwargs):
    """Pools of (B, N, L) tokens with the filler and (B, N) scores."""
    beams, penalty, early_stopping, stops = rule
    out = model.generate(
        max_length=length,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping=early_stopping,
        do_sample=False,
        eos_token_id=stops and list(stops),
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **kwargs,
    )
    sequences = [[FILLER if t == PAD else t for t in row] for row in out.sequences.tolist()]
    sequences = np.reshape([padded(row, length) for row in sequences], (-1, beams, length))
    return sequences, out.sequences_scores.numpy().reshape(-1, beams)


PAD = 997  # No token: where the reference writes it, nothing was generated.


@pytest.mark.once
@pytest.mark.parametrize(
    "rule", rules(1, 3, 7, 8, 12)[1:], ids=str
)  # One beam is greedy search there.
def test_gives_what_transformers_gives(rule):
    search = search_of_all_beams(rule)
    for seed in range(20, 23):
        table, prompts = random_table(seed), random_prompts(seed, tokens=1 if seed % 2 else 4)
        model = TableModel(table)
        kwargs = {"input_ids": torch.tensor(prompts).long(), "use_cache": False}
        want, want_scores = by_transformers(model, rule, **kwargs)
        sequences, scores = search(table, prompts)
        np.testing.assert_array_equal(sequences, want)
        np.testing.assert_allclose(scores, want_scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "prompt_tokens"),
    [(RULES[2], 1), (RULES[3], 4), (RULES[11], 1), (RULES[11], 4)],
    ids=str,
)
def test_gives_what_the_transformers_model_gives(t5gemma2, rule, prompt_tokens, monkeypatch):
    beams, penalty, early_stopping, stops = rule
    sampler = BeamSearch(beams, penalty, early_stopping, return_all_beams=True)
    monkeypatch.setattr(ops, "while_loop", plain_loop)
    texts = torch.tensor([[5, 9, 2, 8, 4], [0, 0, 6, 13, 7], [0, 11, 3, 5, 12]])
    mask = (texts != 0).long()
    prompts = torch.tensor([[2], [2], [2]])
    if prompt_tokens == 4:
        prompts = torch.tensor([[2, 9, 4, 8], [2, 5, 12, 6], [2, 13, 9, 9]])
    want, want_scores = by_transformers(
        t5gemma2, rule, input_ids=texts, attention_mask=mask, decoder_input_ids=prompts
    )

    def next(prompt, cache, index):
        prompt = torch.tensor(ops.convert_to_numpy(prompt)[:, : int(index)]).long()
        out = t5gemma2(
            input_ids=texts.repeat_interleave(beams, 0),
            attention_mask=mask.repeat_interleave(beams, 0),
            decoder_input_ids=prompt,
            use_cache=False,
        )
        return ops.convert_to_tensor(out.logits[:, -1].numpy()), None, cache

    ids = ops.convert_to_tensor([padded(p) for p in prompts.tolist()], "int32")
    with torch.no_grad():
        sequences, scores = sampler(next, ids, index=prompt_tokens, stop_token_ids=stops)
    sequences = ops.convert_to_numpy(sequences)
    np.testing.assert_array_equal(sequences, want)
    np.testing.assert_allclose(ops.convert_to_numpy(scores), want_scores, atol=1e-5)
    ends = np.sum(sequences[:, 0] != FILLER, axis=1)
    assert len(set(ends)) > 1, ends


@pytest.fixture(scope="module")
def t5gemma2():
    stack = {
        "vocab_size": 17,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "query_pre_attn_scalar": 6,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "initializer_range": 0.7,
    }
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 4,
        "patch_size": 2,
    }
    config = transformers.T5Gemma2Config(
        encoder={
            "text_config": stack,
            "vision_config": vision,
            "mm_tokens_per_image": 1,
            "boi_token_index": 14,
            "eoi_token_index": 15,
        },
        decoder=stack,
        image_token_index=16,
        initializer_range=0.7,
    )
    torch.manual_seed(3)
    model = transformers.T5Gemma2ForConditionalGeneration(config).eval()
    # Tied to the embedding, the logits of a random model repeat the last token for ever.
    model.lm_head.out_proj.weight = torch.nn.Parameter(torch.randn(17, 32) * 0.4)
    return model


def plain_loop(cond, body, loop_vars, maximum_iterations):
    """A loop that nothing compiles, because `next` leaves the backend."""
    for _ in range(int(maximum_iterations)):
        if not bool(cond(*loop_vars)):
            break
        loop_vars = body(*loop_vars)
    return loop_vars


# The call contract


def test_no_step_gives_the_prompt():
    search = searcher(BeamSearch(3), (3,), bounded=True)
    prompts = random_prompts(0, tokens=4)
    assert search(random_table(0), prompts, steps=0).tolist() == [padded(p) for p in prompts]
    prompts = random_prompts(0, tokens=LENGTH)
    assert search(random_table(0), prompts).tolist() == prompts.tolist()


@pytest.mark.once
@pytest.mark.parametrize("rule", [rules()[2], RULES[3], rules()[11]], ids=str)
def test_a_row_with_more_of_its_prompt_is_as_if_alone(rule):
    beams, penalty, early_stopping, stops = rule
    sampler = BeamSearch(beams, penalty, early_stopping, return_all_beams=True)
    tokens = np.array([2, 5, 3, LENGTH])
    mask = np.arange(LENGTH) < tokens[:, None]
    search = searcher(sampler, stops, mask=ops.convert_to_tensor(mask))
    for seed in range(3):
        # Stop tokens within a prompt stop nothing.
        table, prompts = random_table(seed), random_prompts(seed, rows=4, tokens=LENGTH)
        prompts[1, 2:5] = stops[0]
        sequences, _ = search(table, np.where(mask, prompts, FILLER), index=2)
        for i, n in enumerate(tokens[:3]):
            pool = by_the_rule(table, prompts[i, :n], LENGTH, *rule)
            assert sequences[i].tolist() == [padded(tokens) for _, tokens in pool]
        assert sequences[3].tolist() == [prompts[3].tolist()] * beams


@pytest.mark.once
@pytest.mark.parametrize(("early_stopping", "steps"), [(True, 2), (False, 5), ("never", 10)])
def test_calls_the_model_no_more_than_needed(early_stopping, steps, monkeypatch):
    sampler, calls = BeamSearch(2, 1.0, early_stopping), []
    monkeypatch.setattr(ops, "while_loop", plain_loop)

    # The pool fills in the second step, worst score (ln 0.7 + ln 0.1) / 2 = -1.33. The best
    # running beam has ln 0.7 + ln 0.9 then, and loses ln 9 in every later step: over its length
    # it falls below the worst after 5 steps, and over the 12 steps to the last slot after 10.
    def next(prompt, cache, index):
        calls.append(int(index))
        chances = {1: {3: 0.3, 5: 0.7}, 2: {7: 0.1, 5: 0.9}}
        chances = chances.get(int(index), {t: 1 / 9 for t in range(VOCABULARY) if t not in (3, 7)})
        logits = np.full((2, VOCABULARY), -30.0, "f4")
        logits[:, list(chances)] = np.log(list(chances.values()))
        return ops.convert_to_tensor(logits), None, cache

    ids = ops.convert_to_tensor([padded([4])], "int32")
    sampler(next, ids, index=1, stop_token_ids=(3, 7))
    assert calls == list(range(1, 1 + steps))


@pytest.mark.once
def test_gives_the_best_of_all_beams():
    table, prompts = random_table(1), random_prompts(1)
    best = searcher(BeamSearch(3), (3,))(table, prompts)
    sequences, scores = searcher(BeamSearch(3, return_all_beams=True), (3,))(table, prompts)
    assert best.shape == (3, LENGTH) and sequences.shape == (3, 3, LENGTH)
    assert best.tolist() == sequences[:, 0].tolist()
    assert np.all(np.diff(scores) < 0)


@pytest.mark.once
def test_leaves_the_slots_after_the_end_as_they_were():
    table = np.full((LENGTH, STATES, VOCABULARY), -9.0, "f4")
    table[:4, :, 5] = table[4:, :, 3] = 9.0
    fillers = np.arange(100, 111)
    prompts = np.array([[1, 2, *fillers], [4, 6, *(10 * fillers)]], "int32")
    sequences = searcher(BeamSearch(3), (3,))(table, prompts, index=2)
    assert sequences.tolist() == [
        [1, 2, 5, 5, 3, *fillers[3:]],
        [4, 6, 5, 5, 3, *(10 * fillers[3:])],
    ]


@pytest.mark.once
def test_temperature_divides_the_logits():
    table, prompts = random_table(2), random_prompts(2)
    settings = {"num_beams": 3, "return_all_beams": True}
    want, want_scores = searcher(BeamSearch(**settings), (3,))(table / np.float32(2.5), prompts)
    got, scores = searcher(BeamSearch(**settings, temperature=2.5), (3,))(table, prompts)
    assert got.tolist() == want.tolist()
    np.testing.assert_allclose(scores, want_scores, rtol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_of_narrow_logits_are_summed_in_float32(dtype):
    # All logits 0: a sequence of 12 tokens scores -12 log(11) exactly; bfloat16 misses it by 0.1.
    sampler = BeamSearch(2, length_penalty=0.0, return_all_beams=True)

    def next(prompt, cache, index):
        return ops.zeros((2, VOCABULARY), dtype), None, cache

    _, scores = sampler(next, ops.convert_to_tensor([padded([4])], "int32"), index=1)
    np.testing.assert_allclose(ops.convert_to_numpy(scores), -12 * np.log(11), rtol=1e-6)


@pytest.mark.once
def test_the_cache_keeps_its_structure_and_dtypes():
    table, dtypes = ops.convert_to_tensor(random_table(0)), {}

    def next(prompt, cache, index):
        dtypes.update({name: keras.backend.standardize_dtype(x.dtype) for name, x in cache.items()})
        token = ops.take(prompt, index - 1, axis=1)
        state = state_after(cache["int32"], token)
        pair = ops.stack([token, state], axis=1)[:, :, None]
        cache = {name: ops.cast(pair, name) for name in cache if name != "int32"}
        cache["int32"] = state
        return ops.take(ops.take(table, index, axis=0), state, axis=0), None, cache

    wide = {name: ops.zeros((3, 2, 1), name) for name in ("bfloat16", "float32", "int8", "bool")}
    cache = {**wide, "int32": ops.zeros((3,), "int32")}
    prompts = random_prompts(0)
    ids = ops.convert_to_tensor([padded(p) for p in prompts])
    run = MODE[MODES[0]](lambda *args: BeamSearch(3)(next, *args, 1, stop_token_ids=[3]))
    got = run(ids, cache)
    assert dtypes == {name: name for name in ("bfloat16", "float32", "int8", "bool", "int32")}
    want = searcher(BeamSearch(3), (3,))(random_table(0), prompts)
    assert ops.convert_to_numpy(got).tolist() == want.tolist()


@pytest.mark.once
def test_reads_the_variables_of_the_model():
    layer = keras.layers.Embedding(VOCABULARY, VOCABULARY)
    model = keras.Sequential([keras.Input(()), layer])

    def function(prompts, weights, read, model=None):
        def next(prompt, cache, index):
            return read(weights, ops.take(prompt, index - 1, axis=1)), None, cache

        return BeamSearch(3)(next, prompts, index=1, stop_token_ids=(3,), model=model)

    def from_the_array(prompts, weights):
        return function(prompts, weights, lambda weights, t: ops.take(weights, t, axis=0))

    def from_the_model(prompts, weights):
        # As a task compiles it: on JAX, the weights are arguments of the call and stand in a scope.
        if MODES[0] == "jit":
            with keras.StatelessScope(state_mapping=[(layer.embeddings, weights)]):
                return function(prompts, weights, lambda _, tokens: model(tokens), model)
        layer.embeddings.assign(weights)
        return function(prompts, weights, lambda _, tokens: model(tokens), model)

    ids = ops.convert_to_tensor([padded(p) for p in random_prompts(3)])
    run = MODE[MODES[0]](from_the_model)
    run_plain = MODE[MODES[0]](from_the_array)
    for seed in (3, 4):
        weights = ops.convert_to_tensor(random_table(seed)[0, :VOCABULARY])
        got, want = map(ops.convert_to_numpy, (run(ids, weights), run_plain(ids, weights)))
        assert got.tolist() == want.tolist()


def test_survives_saving():
    settings = {
        "num_beams": 3,
        "length_penalty": 0.7,
        "early_stopping": "never",
        "return_all_beams": True,
        "temperature": 1.5,
    }
    sampler = BeamSearch(**settings)
    assert sampler.get_config() == settings
    config = keras_hub.samplers.serialize(sampler)
    assert config["registered_name"] == "keras_t5gemma2>BeamSearch"
    for revived in (
        keras_hub.samplers.deserialize(config),
        keras_hub.samplers.get({"class_name": "keras_t5gemma2>BeamSearch", "config": settings}),
        keras_hub.samplers.get(sampler),
    ):
        assert type(revived) is BeamSearch
        assert revived.get_config() == settings
    assert type(keras_hub.samplers.get("beam")) is keras_hub.samplers.BeamSampler


@pytest.mark.parametrize("num_beams", [0, -3, 2.0, "5", True])
def test_wants_a_number_of_beams(num_beams):
    with pytest.raises(ValueError, match=f"num_beams={num_beams!r}"):
        BeamSearch(num_beams)


@pytest.mark.parametrize("early_stopping", [None, 1, "always"])
def test_wants_a_known_early_stopping(early_stopping):
    with pytest.raises(ValueError, match=f"early_stopping={early_stopping!r}"):
        BeamSearch(early_stopping=early_stopping)


def test_wants_a_token_that_does_not_stop():
    stops = tuple(range(VOCABULARY))
    with pytest.raises(ValueError, match=r"\.\.\.\), vocabulary size 11"):
        searcher(BeamSearch(2), stops, "eager")(random_table(0), random_prompts(0))
