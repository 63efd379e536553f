"""Adapters of AdaLoRA: peft reads ours with equal logits, and we read peft's."""

import numpy as np
import peft
import pytest
import torch
from peft_models import NEAR, SIZES, arrays, our_logits, our_task, their_logits
from reference_models import tiny_reference

pytestmark = pytest.mark.once
TEXT = r".*\.(text_model|decoder)\.layers\.\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)"
THEIRS = dict(init_r=4, target_r=2, tinit=0, tfinal=0, deltaT=1, total_step=9, lora_alpha=6)


def trained():
    """Ours of triplets with random values, some of them 0, and none in one layer."""
    lm = our_task()
    lm.enable_lora(rank=4, alpha=6, target=["query", "value", "down"])
    lm.adapter_set.make_triplets()
    rng = np.random.default_rng(0)
    for i, adapter in enumerate(lm.adapter_set.trained_adapters().values()):
        for variable in adapter.trained.values():
            variable.assign(0.5 * rng.normal(size=variable.shape))
        adapter.e.assign(adapter.e * ([0, 1, 1, 0] if i else [0, 0, 0, 0]))
    return lm


@pytest.mark.parametrize("form", ["lora", "adalora"])
def test_peft_reads_ours_and_we_read_it_again(form, tmp_path):
    lm, (x, _) = trained(), arrays()
    want = our_logits(lm, x)
    lm.save_peft_adapter(tmp_path / form, format=form)
    model = peft.PeftModel.from_pretrained(tiny_reference(**SIZES), tmp_path / form).eval()
    with torch.no_grad():
        np.testing.assert_allclose(their_logits(model, x).numpy(), want, **NEAR)
    other = our_task()
    other.load_peft_adapter(tmp_path / form)
    np.testing.assert_allclose(our_logits(other, x), want, rtol=1e-5, atol=1e-5)
    assert other.adapters["default"]["rank"] == 2


def test_ours_reads_what_peft_writes(tmp_path):
    config = peft.AdaLoraConfig(target_modules=TEXT, task_type="SEQ_2_SEQ_LM", **THEIRS)
    model = peft.get_peft_model(tiny_reference(**SIZES), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    x, _ = arrays()
    lm = our_task()
    lm.load_peft_adapter(tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(our_logits(lm, x), their_logits(model, x).numpy(), **NEAR)


def test_other_formats_and_adapters_without_triplets_are_refused(tmp_path):
    lm = our_task()
    lm.enable_lora(rank=2)
    for form in ("adalora", "ia3"):
        with pytest.raises(ValueError, match=f"format='{form}'.*without triplets"):
            lm.save_peft_adapter(tmp_path / "none", format=form)
    assert not (tmp_path / "none").exists()
