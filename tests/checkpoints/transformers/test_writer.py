"""Models that are exported: the reference loads them whole, and computes the same."""

import keras
import numpy as np
import peft
import pytest
import torch
import transformers
from keras import ops
from preprocessors import random_image
from reference_inputs import make_inputs, pad, reference_arguments
from reference_models import load_ours, our_logits, save_reference, tiny_reference
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from keras_t5gemma2 import (
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Tokenizer,
)
from keras_t5gemma2.files.safetensors import read_safetensors
from keras_t5gemma2.kernels.runtime.host_memory import host_array

# The figure of the contract.
NEAR = {"rtol": 0, "atol": 1e-5}
PROMPTS = [
    "Spell 4268 in German.",
    "Write 2026-12-17 in Hindi.",
    "<start_of_image> Which digit is this?",
    "Translate Greece into Japanese.",
]
IMAGES = [[], [], [random_image(20, 31)], []]


def load_reference(path):
    """The reference's model of a directory, all of whose weights it found there, and no others."""
    model, found = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def reference_logits(model, inputs):
    with torch.no_grad():
        return model(**reference_arguments(inputs)).logits.float().numpy()


def check_same_logits(found, wanted, inputs):
    seen = inputs["decoder_padding_mask"].astype(bool)
    np.testing.assert_allclose(found[seen], wanted[seen], **NEAR)


def stored(directory):
    """Type, shape and bytes of each tensor of a directory, by its name."""
    return {
        name: (str(tensor.dtype), tensor.shape, tensor.read().tobytes())
        for name, tensor in read_safetensors(directory).items()
    }


def without_vision(tensors):
    parts = ("vision_tower", "multi_modal_projector")
    return {name: t for name, t in tensors.items() if not any(part in name for part in parts)}


def bits(lm):
    return {
        variable.path: host_array(ops.convert_to_tensor(variable)).tobytes()
        for variable in lm.backbone.weights
    }


# A small random model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm():
    return T5Gemma2Seq2SeqLM(load_ours(tiny_reference()))


@pytest.mark.once
def test_logits(lm, tmp_path):
    lm.export_to_transformers(tmp_path)
    inputs = pad(make_inputs(), "left")
    wanted = reference_logits(load_reference(tmp_path), inputs)
    check_same_logits(our_logits(lm.backbone, inputs), wanted, inputs)


@pytest.mark.once
def test_a_text_only_model(tmp_path):
    """The reference has a tower without layers then, and this package none."""
    lm = T5Gemma2Seq2SeqLM(load_ours(tiny_reference(), text_only=True))
    lm.export_to_transformers(tmp_path)
    inputs = pad(make_inputs(images=False), "right")
    model = load_reference(tmp_path)
    check_same_logits(our_logits(lm.backbone, inputs), reference_logits(model, inputs), inputs)
    again = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path), preprocessor=None)
    assert again.backbone.config == lm.backbone.config
    assert bits(again) == bits(lm)


def published(directory, dtype):
    """A model of the reference in `directory`, as published: the names, and any bits there are."""
    save_reference(tiny_reference().to(getattr(torch, dtype)), directory)
    path = directory / "model.safetensors"
    tensors = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor.clone()
        for name, tensor in load_file(path).items()
    }
    odd = [-0.0, float("nan"), float("inf"), torch.finfo(getattr(torch, dtype)).tiny / 2]
    tensors["model.encoder.embed_tokens.eoi_embedding"][:4] = torch.tensor(odd)
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.once
@pytest.mark.parametrize("text_only", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_import_and_export_is_the_identity(tmp_path, dtype, text_only):
    published(tmp_path, dtype)
    lm = T5Gemma2Seq2SeqLM.from_preset(
        str(tmp_path), text_only=text_only, dtype=dtype, preprocessor=None, allow_nonfinite=True
    )
    lm.export_to_transformers(tmp_path / "out", max_shard_size=20_000)
    source, written = stored(tmp_path), stored(tmp_path / "out")
    if text_only:  # with the smallest tower that there can be
        source, written = without_vision(source), without_vision(written)
    assert written == source
    again = T5Gemma2Seq2SeqLM.from_preset(
        str(tmp_path / "out"), dtype=dtype, preprocessor=None, allow_nonfinite=True
    )
    assert again.backbone.config == lm.backbone.config
    assert bits(again) == bits(lm)


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_rounds_as_torch_does(lm, tmp_path, dtype):
    before = bits(lm)
    lm.export_to_transformers(tmp_path / dtype, dtype=dtype)
    assert bits(lm) == before
    tiny_reference().to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs")
    model = load_reference(tmp_path / dtype)
    assert model.dtype == getattr(torch, dtype)
    wanted = AutoModelForImageTextToText.from_pretrained(tmp_path / "theirs").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


# Adapters ---------------------------------------------------------------------------------------


def with_adapters():
    """Two adapters with random values, of which a sum is active."""
    lm = T5Gemma2Seq2SeqLM(load_ours(tiny_reference(), text_only=True))
    lm.enable_lora(rank=3, alpha=5, name="plain")
    lm.enable_lora(rank=2, target=["query", "down"], use_dora=True, name="dora")
    rng = np.random.default_rng(4)
    for variable in lm.backbone.weights:
        if "lora" in variable.path:
            variable.assign(0.15 * rng.normal(size=variable.shape))
    lm.set_adapter({"plain": 0.7, "dora": 1.0})
    return lm


@pytest.mark.once
def test_adapters_are_merged_into_what_is_written(tmp_path):
    lm = with_adapters()
    inputs = make_inputs(images=False)
    before = bits(lm)
    lm.export_to_transformers(tmp_path / "sum")
    lm.set_adapter(None)
    lm.export_to_transformers(tmp_path / "base")
    assert bits(lm) == before
    base = reference_logits(load_reference(tmp_path / "base"), inputs)
    check_same_logits(base, reference_logits(tiny_reference(), inputs), inputs)

    lm.set_adapter({"plain": 0.7, "dora": 1.0})
    lm.merge_adapter()
    found = reference_logits(load_reference(tmp_path / "sum"), inputs)
    check_same_logits(found, our_logits(lm.backbone, inputs), inputs)
    assert np.abs(base - found).max() > 0.03
    lm.export_to_transformers(tmp_path / "merged")
    assert stored(tmp_path / "merged") == stored(tmp_path / "sum")
    with pytest.raises(ValueError, match="before the base weights are exported"):
        lm.export_to_transformers(tmp_path / "without", adapters="peft")
    assert not (tmp_path / "without").exists()


@pytest.mark.once
def test_adapters_in_the_format_of_peft(tmp_path):
    lm = with_adapters()
    inputs = make_inputs(images=False)
    lm.export_to_transformers(tmp_path, adapters="peft")
    for name in lm.adapters:
        lm.set_adapter(name)
        model = peft.PeftModel.from_pretrained(
            load_reference(tmp_path), tmp_path / "adapters" / name
        )
        with torch.no_grad():
            found = model(**reference_arguments(inputs)).logits.numpy()
        check_same_logits(found, our_logits(lm.backbone, inputs), inputs)


# The model inside the package, which has a tokenizer of SentencePiece ---------------------------


@pytest.fixture(scope="module")
def tiny():
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported")
    tiny.export_to_transformers(path)
    return path


@pytest.mark.once
def test_the_inputs_of_the_processor(tiny, exported):
    processor = AutoProcessor.from_pretrained(exported)
    images = [random_image(20, 31), random_image(40, 17, seed=1)]
    text = "From <start_of_image> to <start_of_image>: which 日本?"
    theirs = processor(text=[text], images=[images], return_tensors="np")
    ours = tiny.preprocessor.generate_preprocess(
        {"encoder_text": [text], "images": [images], "decoder_text": [""]}
    )
    seen = ours["encoder_padding_mask"].astype(bool)
    np.testing.assert_array_equal(ours["encoder_token_ids"][seen], theirs["input_ids"][0])
    found = theirs["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours["images"][0], found, rtol=0, atol=1e-6)


@pytest.mark.once
def test_greedy_text(tiny, exported):
    processor, model = AutoProcessor.from_pretrained(exported), load_reference(exported)
    rows = {"encoder_text": PROMPTS, "images": IMAGES}
    ours = tiny.generate(rows, max_new_tokens=24)
    for prompt, images, text in zip(PROMPTS, IMAGES, ours, strict=True):
        inputs = processor(text=prompt, images=images or None, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=24)
        assert processor.decode(ids[0], skip_special_tokens=True) == text
    assert ours[0] == "viertausendzweihundertachtundsechzig"


@pytest.mark.once
def test_the_preset_comes_back(tiny, exported):
    again = T5Gemma2Seq2SeqLM.from_preset(str(exported))
    assert bits(again) == bits(tiny)
    assert again.backbone.config == tiny.backbone.config
    texts = [*PROMPTS, "žluť 日本 🦒\n\n<end_of_turn>"]
    assert again.preprocessor.tokenizer(texts) == tiny.preprocessor.tokenizer(texts)
    assert again.preprocessor.tokens_per_image == tiny.preprocessor.tokens_per_image
    assert again.preprocessor.image_converter.image_size == (32, 32)


@pytest.mark.once
def test_a_text_only_model_has_a_tokenizer(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    lm.export_to_transformers(tmp_path)
    assert not (tmp_path / "processor_config.json").exists()
    ids = AutoTokenizer.from_pretrained(tmp_path)(PROMPTS[0]).input_ids
    assert ids == [2, *lm.preprocessor.tokenizer(PROMPTS[0])]
    again = T5Gemma2Seq2SeqLM.from_preset(str(tmp_path))
    assert again.backbone.config.vision is None
    assert again.preprocessor.image_converter is None
    with pytest.raises(ValueError, match="whose model takes text only"):
        T5Gemma2ImageConverter.from_preset(str(tmp_path))


@pytest.mark.once
def test_a_backbone_and_a_tokenizer_are_exported(tmp_path):
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.backbone.export_to_transformers(tmp_path, dtype="float32")
    lm.preprocessor.tokenizer.export_to_transformers(tmp_path)
    again = T5Gemma2Backbone.from_preset(tmp_path)
    for one, other in zip(lm.backbone.weights, again.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        )
    text = "Spell 4268 in German."
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    want = lm.preprocessor.tokenizer(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == want
    assert T5Gemma2Tokenizer.from_preset(tmp_path)(text) == want
