"""Rules inside the loop: their order, their states, and where a text ends."""

import numpy as np
import pytest
from keras import ops, tree
from tasks import small_task

from keras_t5gemma2 import constraints
from keras_t5gemma2.constraints.rules import Rules
from keras_t5gemma2.generation.cache import Cache
from keras_t5gemma2.generation.loop import first_state
from keras_t5gemma2.generation.settings import settings_of

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def lm():
    return small_task()


def rules_of(lm, prompt, room=4, **options):
    found = settings_of(lm.generator, options, (1,))
    arrays = found.arrays(range(len(prompt)), 1, [room] * len(prompt), room)
    tensors = tree.map_structure(ops.convert_to_tensor, arrays)
    padding = np.array([(np.array(row) == 0).sum() for row in prompt], "int32")
    cache = Cache((), {}, ops.convert_to_tensor(padding))
    new = ops.convert_to_tensor(np.full((len(prompt), room), -1, "int32"))
    rules = Rules(tensors, found.logits_processor)
    return rules, rules.begin(
        first_state(ops.convert_to_tensor(np.array(prompt, "int32")), new, cache)
    )


def test_processors_see_the_tokens_of_each_row_and_no_padding(lm):
    seen = []

    def process(ids, logits):
        seen.append(ops.convert_to_numpy(ids).tolist())
        return logits + 1

    rules, state = rules_of(lm, [[0, 5], [6, 7]], logits_processor=[process])
    logits = ops.zeros((2, lm.backbone.config.vocabulary_size))
    assert (ops.convert_to_numpy(rules.logits(logits, state)) == 1).all()
    assert seen == [[[-1, 5, -1, -1, -1, -1], [6, 7, -1, -1, -1, -1]]]


def test_padding_is_not_penalized(lm):
    rules, state = rules_of(lm, [[0, 5], [6, 7]], repetition_penalty=2.0)
    logits = ops.ones((2, lm.backbone.config.vocabulary_size))
    found = ops.convert_to_numpy(rules.logits(logits, state))
    assert [np.flatnonzero(row != 1).tolist() for row in found] == [[5], [6, 7]]


def test_automata_read_what_is_written_and_end_a_text(lm):
    rules, state = rules_of(lm, [[2], [2]], stop=["a"])
    spell = lm.preprocessor.tokenizer
    ids = ops.convert_to_tensor([spell("a")[0], spell("e")[0]], dtype="int32")
    spelled = rules.after(state.spelled, ids)
    assert ops.convert_to_numpy(rules.ends(state.spelled)).tolist() == [False, False]
    assert ops.convert_to_numpy(rules.ends(spelled)).tolist() == [True, False]


def test_no_two_states_are_one_tensor(lm):
    """Compiled programs give the memory of each away."""
    _, state = rules_of(lm, [[2]], stop=["a"], constraint=constraints.choice(["a"]))
    assert state.spelled["words"] is not state.spelled["constraint"]
