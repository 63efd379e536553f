"""How sure a model is, against all of its logits."""

import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, TOKENIZER, small_task


@pytest.mark.once
def test_numbers_of_each_token_are_those_of_all_logits():
    lm = small_task()
    x, labels, weights = lm.preprocessor(SMALL_ROWS)
    log_probs = ops.convert_to_numpy(ops.log_softmax(lm(x), axis=-1))
    found = lm.probe(SMALL_ROWS, top=3)
    scores = lm.score(SMALL_ROWS)
    for row, probe in enumerate(found):
        count = int(weights[row].sum())
        want, ids = log_probs[row, :count], labels[row, :count]
        assert probe.token_ids.tolist() == ids.tolist()
        surprise = -np.take_along_axis(want, ids[:, None], axis=-1)[:, 0]
        np.testing.assert_allclose(probe.surprise, surprise, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(-probe.surprise.sum(), scores[row], rtol=1e-5)
        entropy = -(np.exp(want) * want).sum(axis=-1)
        np.testing.assert_allclose(probe.entropy, entropy, rtol=1e-4, atol=1e-5)
        for alternatives, of_token in zip(probe.alternatives, want, strict=True):
            best = np.argsort(-of_token)[:3]
            names = [TOKENIZER.id_to_token(int(i)).replace("▁", " ") for i in best]
            assert [name for name, _ in alternatives] == names
            probabilities = [p for _, p in alternatives]
            np.testing.assert_allclose(probabilities, np.exp(of_token[best]), rtol=1e-4)


@pytest.mark.once
def test_a_text_that_is_generated_is_its_own_first_choice():
    lm = small_task()
    probe = lm.probe("the cat", max_new_tokens=6)
    assert [token for token, *_ in (of[0] for of in probe.alternatives)] == probe.tokens
    assert all(len(alternatives) == 5 for alternatives in probe.alternatives)


@pytest.mark.once
@pytest.mark.parametrize("top", [0, -1, 1.5, True, 10**6])
def test_alternatives_are_some_of_the_vocabulary(top):
    with pytest.raises(ValueError, match=f"`top` must be an integer from 1 to .*top={top}"):
        small_task().probe("the cat", output="a", top=top)


@pytest.mark.once
def test_logits_that_are_not_finite_are_an_error():
    lm = small_task()
    lm.backbone.decoder.norm.scale.assign([np.nan] * 28)
    with pytest.raises(ValueError, match="The logits of row 0"):
        lm.probe("the cat", output="a dog")
