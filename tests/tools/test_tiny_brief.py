"""The rule that `t5gemma2_tiny` learns by rewards alone, as the tool has it."""

import pathlib
import sys

import pytest

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

TOOLS = pathlib.Path(__file__).parents[2] / "tools" / "tiny"


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_rule_is_learned_and_little_forgotten(monkeypatch, method):
    monkeypatch.syspath_prepend(str(TOOLS))
    sys.modules.pop("brief", None)
    import brief

    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    before, tasks = brief.share_of_samples(lm), brief.accuracies(lm, 100)
    history = brief.train(lm, method, steps=12, num_samples=32, rate=1e-4, kl_weight=0.04)
    assert 0.05 < before < 0.33  # about 30 %, which 1,000 samples say to 3 points
    assert brief.share_of_samples(lm) > 0.9
    assert history["reward"][-1] > 0.9
    for task, accuracy in brief.accuracies(lm, 100).items():
        assert accuracy > tasks[task] - 5, task
