"""Logits that are not finite end in an error, never in a text; and temperatures."""

import keras_hub
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2.generation import batching, finite
from keras_t5gemma2.generation.beam_search import BeamSearch

INPUTS = {"encoder_text": SMALL_ROWS["encoder_text"]}
SAMPLERS = {
    "greedy": lambda: "greedy",
    "top_p": lambda: keras_hub.samplers.TopPSampler(p=0.9, seed=1),
    "beam": lambda: BeamSearch(2),
    "contrastive": lambda: keras_hub.samplers.ContrastiveSampler(k=2),
    "own": lambda: Own(),
}
ERROR = "logits of new token 1 of row 0 are not finite: the model computes NaN or infinity. Weig"


class Own(keras_hub.samplers.Sampler):
    """The likeliest token but for one that is forbidden."""

    def get_next_token(self, probabilities):
        allowed = ops.arange(probabilities.shape[-1]) != 5
        return ops.argmax(ops.where(allowed, probabilities, 0), axis=-1)


def broken(value, part="decoder"):
    lm = small_task()
    weights = {"decoder": lm.backbone.decoder.blocks[0].mlp, "table": lm.backbone.token_embedding}
    weight = weights[part].trainable_weights[0]
    values = ops.convert_to_numpy(weight).copy()
    values[3, 2] = value
    weight.assign(values)
    return lm


@pytest.fixture(scope="module")
def nan():
    return broken(np.nan)


@pytest.mark.parametrize(
    "sampler", [s if s == "greedy" else pytest.param(s, marks=pytest.mark.once) for s in SAMPLERS]
)
def test_generate_with_every_sampler(nan, sampler):
    nan.compile(sampler=SAMPLERS[sampler]())
    with pytest.raises(ValueError, match=ERROR):
        nan.generate(INPUTS, max_new_tokens=4)


@pytest.mark.once
@pytest.mark.parametrize("assistant", ["prompt_lookup", "model"])
def test_speculation(nan, assistant):
    nan.compile(sampler="greedy")
    helper = small_task() if assistant == "model" else assistant
    with pytest.raises(ValueError, match=ERROR):
        nan.generate(INPUTS, max_new_tokens=4, assistant=helper)


@pytest.mark.once
def test_an_assistant_that_is_broken(nan):
    with pytest.raises(ValueError, match="The logits of `assistant` are not finite"):
        small_task().generate(INPUTS, max_new_tokens=4, assistant=nan)


@pytest.mark.once
def test_stream_and_score(nan):
    nan.compile(sampler="greedy")
    with pytest.raises(ValueError, match=ERROR):
        list(nan.stream(INPUTS, max_new_tokens=4))
    with pytest.raises(ValueError, match="logits of row 0 are not finite"):
        nan.score(SMALL_ROWS)
    with pytest.raises(ValueError, match="row 0 are not finite"):
        nan.generate("the cat", max_new_tokens=4, num_return_sequences=1, stop_token_ids=None)


@pytest.mark.once
@pytest.mark.parametrize(("value", "part"), [(np.nan, "table"), (np.inf, "decoder")])
def test_infinity_and_an_entry_of_the_table(value, part):
    lm = broken(value, part)
    with pytest.raises(ValueError, match="are not finite"):
        lm.generate(INPUTS, max_new_tokens=4)


@pytest.mark.once
def test_the_row_is_named_and_a_logit_of_minus_infinity_is_meant(monkeypatch):
    lm = small_task()
    logits = lm.logits
    want = lm.generate(INPUTS, max_new_tokens=4)

    def patched(added):
        monkeypatch.setattr(lm, "logits", lambda hidden: logits(hidden) + added)
        lm.generate_function = None

    patched(np.array([[0.0], [np.nan]], "float32"))
    with pytest.raises(ValueError, match="new token 1 of row 1 are not finite"):
        lm.generate({**INPUTS, "encoder_text": ["the cat", "the dog"]}, max_new_tokens=4)
    forbidden = np.zeros((1, lm.backbone.config.vocabulary_size), "float32")
    forbidden[0, 0] = -np.inf
    patched(forbidden)
    assert len(lm.generate(INPUTS, max_new_tokens=4)) == len(want)


@pytest.mark.once
def test_float16_is_the_likely_cause_where_it_is_the_dtype():
    with pytest.raises(ValueError, match='dtype="bfloat16" or "float32": float16 has'):
        raise finite.error("The logits of row 0", "float16")


def test_what_breaks_after_a_row_has_ended_is_not_its_own():
    ids = ops.convert_to_tensor(np.array([[9, 4, 1, 7, 7], [9, 4, 5, 7, 7]], "int32"))
    broken = ops.convert_to_tensor(np.array([3, 3], "int32"))
    marked = ops.convert_to_numpy(finite.marked(ids, broken))
    assert marked.tolist() == [[9, 4, 1, -2, -2], [9, 4, 5, -2, -2]]
    ended, other = batching.new_tokens_of_rows(marked, 1, [4, 4], (1,))
    assert ended.tolist() == [4, 1] and other.tolist() == [4, 5, -2, -2]
    finite.check(ended, 0, "float32")
    with pytest.raises(ValueError, match="new token 3 of row 7"):
        finite.check(other, 7, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_which_logits_are_broken(dtype):
    largest = float(np.finfo(dtype).max) if dtype == "float16" else 1e30
    rows = [[1, 2, 3], [np.nan, 0, 0], [np.inf, -np.inf, 0], [-np.inf, 1, 0], [largest] * 3]
    rows += [[0, 0, np.inf]]
    found = finite.is_broken(ops.convert_to_tensor(np.array(rows, dtype)))
    assert ops.convert_to_numpy(found).tolist() == [False, True, True, False, False, True]


# Temperature
