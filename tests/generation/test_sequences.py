"""Where sequences end, and how likely their tokens are."""

import keras_hub
import numpy as np
import pytest
from keras import ops
from tasks import TOKENIZER, small_task, tiny_task

from keras_t5gemma2 import BeamSearch
from keras_t5gemma2.constraints.word_rules import of_words
from keras_t5gemma2.generation import sequences


@pytest.mark.once
def test_a_sequence_ends_with_a_stop_token_a_rule_or_its_budget():
    rule = of_words(small_task(), (" is",), ())
    ids = np.array([*TOKENIZER("a dog is red")], "int32")
    found = sequences.sequence_of(ids, (1,), [rule])
    assert TOKENIZER.detokenize(found.ids) == "a dog is" and found.is_finished
    assert not sequences.sequence_of(ids, (1,)).is_finished
    assert sequences.sequence_of(np.append(ids, 1), (1,)).is_finished
    assert sequences.sequence_of(np.array([-2, -2]), (1,), [rule]).ids.tolist() == [-2, -2]


@pytest.mark.once
@pytest.mark.compiled
@pytest.mark.parametrize(
    "sampler",
    [
        "greedy",
        pytest.param(
            lambda: keras_hub.samplers.TopKSampler(5, temperature=3.0), marks=pytest.mark.once
        ),
        pytest.param(lambda: BeamSearch(3), marks=pytest.mark.once),
    ],
)
def test_log_probabilities_are_those_of_score(sampler):
    lm = tiny_task(vision=False)
    lm.compile(sampler=sampler if isinstance(sampler, str) else sampler())
    texts = {"encoder_text": ["the cat", "what is in the garden"], "decoder_text": ["a", "a red"]}
    found = lm.generate(texts, max_new_tokens=6, return_scores=True)
    for row, ids in enumerate(found.token_ids):
        encoder, prompt = (TOKENIZER(texts[name][row]) for name in texts)
        encoder = [TOKENIZER.start_token_id, *encoder]
        tokens = [TOKENIZER.start_token_id, *prompt, *ids]
        logits = lm(
            {
                "encoder_token_ids": np.array([encoder]),
                "encoder_padding_mask": np.ones((1, len(encoder)), "int32"),
                "decoder_token_ids": np.array([tokens[:-1]]),
                "decoder_padding_mask": np.ones((1, len(tokens) - 1), "int32"),
            }
        )
        logits = ops.convert_to_numpy(logits)[0]
        logits = logits.astype("float64")
        every = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        want = every[np.arange(len(tokens) - 1), tokens[1:]][-len(ids) :]
        np.testing.assert_allclose(found.log_probs[row], want, atol=1e-4)
        assert found.scores[row] == pytest.approx(want.sum(), abs=1e-3)
