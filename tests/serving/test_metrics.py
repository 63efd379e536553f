"""What a server counts."""

import collections
import types

import pytest

from keras_t5gemma2.serving.metrics import Metrics


@pytest.mark.once
def test_counts():
    engine = types.SimpleNamespace(waiting=3, running=2, counts=collections.Counter(encoded=5))
    metrics, other = Metrics(engine), Metrics(engine)  # two servers of a process
    metrics.done("/v1/completions", 400, 0.5)
    metrics.began(0.2)
    metrics.tokens(7, 2)
    text = metrics.text().decode()
    for line in (
        't5gemma2_requests_total{code="400",path="/v1/completions"} 1.0',
        "t5gemma2_tokens_read_total 7.0",
        "t5gemma2_tokens_written_total 2.0",
        "t5gemma2_texts_waiting 3.0",
        "t5gemma2_rows_encoded 5.0",
        "t5gemma2_first_token_seconds_count 1.0",
    ):
        assert line in text.splitlines()
    assert "t5gemma2_tokens_read_total 0.0" in other.text().decode()
