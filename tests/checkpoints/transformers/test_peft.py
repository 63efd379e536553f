"""Adapters of the peft library: theirs here, ours there, and ten steps of training in both."""

import json

import numpy as np
import peft
import pytest
import torch
from peft_models import (
    NEAR,
    SIZES,
    TEXT,
    arrays,
    our_logits,
    our_task,
    their_logits,
    theirs,
)
from reference_models import VOCABULARY_SIZE, tiny_reference
from safetensors.numpy import load_file, save_file

SOME = r".*(text_model\.layers\.0|decoder\.layers\.1)\.(self_attn\.[qv]|mlp\.down)_proj"
VARIANTS = {
    "plain": dict(r=3, lora_alpha=7, target_modules=TEXT),
    "rslora": dict(r=4, lora_alpha=3, target_modules=SOME, use_rslora=True),
    "dora": dict(r=2, lora_alpha=5, target_modules=SOME, use_dora=True),
}


@pytest.mark.once
@pytest.mark.parametrize(
    "variant",
    ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dora", "rslora"))],
)
def test_ten_steps_from_an_adapter_of_peft_and_back(variant, tmp_path):
    """Loaded here, trained side by side, saved here, and loaded there."""
    model, lm = theirs(**VARIANTS[variant]), our_task()
    model.save_pretrained(tmp_path / "theirs")
    lm.load_peft_adapter(tmp_path / "theirs")
    x, labels = arrays()
    with torch.no_grad():
        start = their_logits(model, x).numpy()
    np.testing.assert_allclose(our_logits(lm, x), start, **NEAR)

    history = lm.fit(x, labels, batch_size=3, epochs=10, shuffle=False, verbose=0)
    wanted = _train(model, x, labels, steps=10, learning_rate=0.1)
    np.testing.assert_allclose(history.history["loss"], wanted, **NEAR)
    assert wanted[-1] < 0.9 * wanted[0]

    tuned = our_logits(lm, x)
    assert np.abs(tuned - start).max() > 0.1
    lm.save_peft_adapter(tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(tiny_reference(**SIZES), tmp_path / "ours")
    with torch.no_grad():
        np.testing.assert_allclose(their_logits(loaded, x).numpy(), tuned, **NEAR)


def _train(model, x, labels, steps, learning_rate):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = their_logits(model, x).reshape(-1, VOCABULARY_SIZE)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long().flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.once
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_is_what_was_read(variant, tmp_path):
    """The same tensors by the same names; the modules in full, so none of the tower's."""
    theirs(**VARIANTS[variant]).save_pretrained(tmp_path / "theirs")
    lm = our_task()
    lm.load_peft_adapter(tmp_path / "theirs", name="read")
    lm.save_peft_adapter(tmp_path / "ours", name="read")
    read, written = (
        load_file(tmp_path / who / "adapter_model.safetensors") for who in ("theirs", "ours")
    )
    assert set(read) == set(written)
    for name, array in read.items():
        np.testing.assert_array_equal(written[name], array)
    config = peft.PeftConfig.from_pretrained(tmp_path / "ours")
    assert (config.r, config.lora_alpha) == (
        lm.adapters["read"]["rank"],
        lm.adapters["read"]["alpha"],
    )
    assert len(config.target_modules) == len([name for name in read if "lora_A" in name])
    targets = {"plain": "text", "rslora": None, "dora": None}[variant]
    assert targets is None or lm.adapters["read"]["target"] == targets


@pytest.mark.once
@pytest.mark.parametrize("target", [["q_proj", "v_proj"], "all-linear"], ids=["names", "all"])
def test_what_training_on_text_leaves_on_the_tower_is_left_out(target, tmp_path):
    """The plain spellings of peft reach into the vision tower, where B stays zero."""
    model = peft.get_peft_model(
        tiny_reference(**SIZES), peft.LoraConfig(r=3, lora_alpha=7, target_modules=target)
    )
    x, labels = arrays()
    _train(model, x, labels, steps=2, learning_rate=0.5)
    model.save_pretrained(tmp_path)
    assert any("vision_tower" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    lm = our_task()
    with pytest.warns(UserWarning, match="on the vision tower, which add nothing") as caught:
        lm.load_adapter(tmp_path)
    assert len([one for one in caught if "vision tower" in str(one.message)]) == 1
    with torch.no_grad():
        wanted = their_logits(model.eval(), x).numpy()
    np.testing.assert_allclose(our_logits(lm, x), wanted, **NEAR)


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(bias="all"), "bias='all'"),
        (dict(modules_to_save=["norm"]), "modules_to_save=.*norm"),
        (dict(target_modules=["q_proj"]), "with base_model.model.model.encoder.vision_tower"),
        (dict(target_modules=["embed_tokens"]), "embed_tokens.lora_embedding_A"),
    ],
    ids=["bias", "modules", "tower", "table"],
)
def test_what_no_adapter_here_can_be(options, message, tmp_path):
    theirs(**{**VARIANTS["plain"], **options}).save_pretrained(tmp_path)
    lm = our_task()
    with pytest.raises(ValueError, match=message):
        lm.load_peft_adapter(tmp_path)
    assert lm.adapters == {} and all(variable.trainable for variable in lm.weights)


@pytest.mark.once
def test_directories_that_are_no_adapters(tmp_path):
    lm = our_task()
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        lm.load_peft_adapter(tmp_path)
    theirs(**VARIANTS["rslora"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base weights"),
        ({"r": 5}, "lora_a must be .40, 5. and is .40, 4."),
        ({"rank_pattern": {"q_proj": 5}}, "lora_a must be .40, 5. and is .40, 4."),
        ({"rank_pattern": {"q_proj": "5"}}, "rank_pattern"),
        ({"r": "4"}, "its `rank` must be an integer. Received: rank='4'"),
        ({"lora_alpha": [1]}, "its `alpha` must be a number"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            lm.load_peft_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    path.write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="in adapter_model.safetensors"):
        lm.load_peft_adapter(tmp_path)


@pytest.mark.once
def test_the_names_of_earlier_releases_are_read(tmp_path):
    """Before the reference's encoder had a `text_model`."""
    model = theirs(**VARIANTS["plain"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    old = {name.replace(".text_model", ""): array for name, array in load_file(path).items()}
    save_file(old, path)
    lm = our_task()
    lm.load_peft_adapter(tmp_path)
    x, _ = arrays()
    with torch.no_grad():
        np.testing.assert_allclose(our_logits(lm, x), their_logits(model, x).numpy(), **NEAR)
