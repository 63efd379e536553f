"""Adapters of peft with other ranks and alphas on some layers."""

import numpy as np
import peft
import pytest
import torch
from peft_models import NEAR, SIZES, TEXT, arrays, our_logits, our_task, their_logits, theirs
from reference_models import tiny_reference

from keras_t5gemma2.checkpoints.transformers.peft_patterns import rule

PATTERNS = dict(
    r=3,
    lora_alpha=7,
    target_modules=TEXT,
    rank_pattern={"q_proj": 2, r"decoder\.layers\.1\..*up_proj": 5},
    alpha_pattern={"v_proj": 4, "model.decoder.layers.0.mlp.down_proj": 9},
)


@pytest.mark.once
def test_patterns_of_ranks_and_alphas_are_read_and_written(tmp_path):
    """Names, whole names and expressions of peft's; then by whole names from here."""
    model, lm = theirs(**PATTERNS), our_task()
    model.save_pretrained(tmp_path / "theirs")
    lm.load_peft_adapter(tmp_path / "theirs")
    x, _ = arrays()
    with torch.no_grad():
        want = their_logits(model, x).numpy()
    np.testing.assert_allclose(our_logits(lm, x), want, **NEAR)
    ranks = {a.a.shape[1] for a in lm.adapter_set.trained_adapters().values()}
    assert ranks == {2, 3, 5}
    lm.save_peft_adapter(tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(tiny_reference(**SIZES), tmp_path / "ours")
    with torch.no_grad():
        np.testing.assert_allclose(their_logits(loaded, x).numpy(), want, **NEAR)


@pytest.mark.once
@pytest.mark.parametrize("key", ["(a+)+b", "a*b*c*", "x" * 301, "(", 3])
def test_expressions_that_could_take_long_are_refused(key):
    with pytest.raises(ValueError, match="The keys of `rank_pattern` in here must be names"):
        rule(key, "rank_pattern", "here")
