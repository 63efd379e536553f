"""Several targets of one input, which is encoded once."""

import numpy as np
import pytest
from keras import ops
from tasks import small_task

from keras_t5gemma2.training.grouped_rows import hidden_of_groups


def batch(lm):
    rows = {
        "encoder_text": ["the cat"] * 3 + ["what is in the garden"] * 3,
        "decoder_text": ["a dog", "a", "the red bee", "a house", "dog", "the cat and a dog"],
    }
    x, _, _ = lm.preprocess_samples(rows)
    return x


@pytest.mark.once
def test_groups_give_the_states_of_repeated_rows():
    lm = small_task()
    x = batch(lm)
    want = lm.backbone(x)["decoder_sequence_output"]
    once = {n: v[::3] if n.startswith("encoder") else v for n, v in x.items()}
    once = {name: ops.convert_to_tensor(value) for name, value in once.items()}
    got = hidden_of_groups(lm.backbone, once, training=False)
    there = x["decoder_padding_mask"].astype(bool)
    np.testing.assert_allclose(
        ops.convert_to_numpy(got)[there], ops.convert_to_numpy(want)[there], atol=1e-5
    )


@pytest.mark.once
def test_each_input_is_encoded_once(monkeypatch):
    lm = small_task()
    once = {n: v[::3] if n.startswith("encoder") else v for n, v in batch(lm).items()}
    seen, call = [], type(lm.backbone.encoder).call

    def spy(self, x, *args, **kwargs):
        seen.append(x.shape[0])
        return call(self, x, *args, **kwargs)

    monkeypatch.setattr(type(lm.backbone.encoder), "call", spy)
    hidden_of_groups(lm.backbone, once, training=False)
    assert seen == [2]
