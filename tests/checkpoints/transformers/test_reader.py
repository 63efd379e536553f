"""Checkpoints of the reference load under all their names, and give the reference's logits."""

import functools
import json

import keras
import numpy as np
import pytest
import torch
from checkpoints import load_backbone
from keras import ops
from reference_models import our_logits, save_reference, tiny_reference
from safetensors.torch import load_file, save_file

EMBEDDINGS = "model.encoder.embed_tokens.weight"
END_OF_IMAGE = "model.encoder.embed_tokens.eoi_embedding"


def _hub(name):
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def _text_model(name):
    for part in ("embed_tokens.", "layers.", "norm."):
        if name.startswith(f"model.encoder.{part}"):
            return name.replace("model.encoder.", "model.encoder.text_model.")
    return name


def _bare(name):
    return name.removeprefix("model.")


# Every way in which the reference has named the tensors of one model; "saved" is what it does now.
LAYOUTS = {
    "saved": lambda name: name,
    "hub": _hub,
    "text_model": _text_model,
    "mixed": lambda name: _hub(_text_model(name)),
    "bare": _bare,
    "bare_hub": lambda name: _bare(_hub(name)),
    "bare_text_model": lambda name: _bare(_text_model(name)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directory of a reference model, as the reference saves it."""
    return save_reference(tiny_reference(), tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def loaded(saved):
    """Our model of that directory."""
    return load_backbone(saved)


@pytest.fixture(scope="module")
def inputs():
    """Two rows with images and end-of-image ids, one of them padded on the right."""
    encoder = [[2, 5, 7, 7, 7, 7, 6, 9, 20, 11, 13], [2, 8, 22, 5, 7, 7, 7, 7, 6, 0, 0]]
    decoder = [[2, 3, 6, 9, 10, 12, 14], [2, 6, 7, 33, 10, 0, 0]]
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, 28, 28, 3))
    arrays = {"encoder_token_ids": encoder, "decoder_token_ids": decoder}
    arrays = {name: np.array(ids, "int32") for name, ids in arrays.items()}
    masks = {
        name.replace("token_ids", "padding_mask"): (ids != 0).astype("int32")
        for name, ids in arrays.items()
    }
    return {**arrays, **masks, "images": images.astype("float32")}


def reference_logits(model, inputs, with_images=True):
    images = torch.tensor(inputs["images"][:, 0].transpose(0, 3, 1, 2))
    with torch.no_grad():
        outputs = model(
            input_ids=torch.tensor(inputs["encoder_token_ids"]),
            attention_mask=torch.tensor(inputs["encoder_padding_mask"]),
            decoder_input_ids=torch.tensor(inputs["decoder_token_ids"]),
            decoder_attention_mask=torch.tensor(inputs["decoder_padding_mask"]),
            pixel_values=images if with_images else None,
        )
    return outputs.logits.float().numpy()


def check_logits(backbone, inputs, wanted):
    logits = our_logits(backbone, inputs)
    seen = inputs["decoder_padding_mask"].astype(bool)
    np.testing.assert_allclose(logits[seen], wanted[seen], atol=1e-5, rtol=0)


def rewrite(source, directory, change):
    """Writes to `directory` what `change` makes of the dict of tensors in `source`."""
    tensors = change(load_file(source / "model.safetensors"))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, _weights(directory))
    (directory / "config.json").write_text((source / "config.json").read_text())
    return directory


def _weights(directory):
    return directory / "model.safetensors"


def renamed(rename, tensors):
    return {rename(name): tensor for name, tensor in tensors.items()}


def with_copies(rename, tensors):
    """With the tensors that the reference ties, as older releases wrote them."""
    copies = {
        "lm_head.out_proj.weight": tensors[EMBEDDINGS],
        "model.decoder.embed_tokens.weight": tensors[EMBEDDINGS],
        "model.decoder.embed_tokens.eoi_embedding": tensors[END_OF_IMAGE],
    }
    return renamed(rename, {**tensors, **copies})


def split(directory, num_shards):
    """Replaces the single file of a directory by shards and an index."""
    tensors = load_file(_weights(directory))
    _weights(directory).unlink()
    names = list(tensors)
    files = {}
    for i in range(num_shards):
        file = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
        part = names[i::num_shards]
        save_file({name: tensors[name] for name in part}, directory / file)
        files.update({name: file for name in part})
    index = {"metadata": {}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def numpy_weights(backbone):
    return {
        weight.path: ops.convert_to_numpy(ops.cast(weight.value, "float32"))
        for weight in backbone.weights
    }


def check_same_weights(backbone, other):
    weights, others = numpy_weights(backbone), numpy_weights(other)
    assert weights.keys() == others.keys()
    for path, weight in weights.items():
        np.testing.assert_array_equal(weight, others[path])


def test_a_saved_reference_gives_its_logits(loaded, inputs):
    check_logits(loaded, inputs, reference_logits(tiny_reference(), inputs))


@pytest.mark.once
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "saved"])
def test_every_layout_gives_the_same_weights(saved, loaded, tmp_path, layout):
    rewrite(saved, tmp_path, functools.partial(renamed, LAYOUTS[layout]))
    check_same_weights(load_backbone(tmp_path), loaded)


@pytest.mark.once
@pytest.mark.parametrize("layout", ["saved", "mixed", "bare_hub"])
def test_copies_of_tied_tensors_and_shards(saved, loaded, tmp_path, layout):
    rewrite(saved, tmp_path, functools.partial(with_copies, LAYOUTS[layout]))
    split(tmp_path, num_shards=3)
    check_same_weights(load_backbone(tmp_path), loaded)


@pytest.mark.once
def test_decoders_copy_alone_will_do(saved, loaded, tmp_path):
    def keep_the_decoders(tensors):
        tensors["model.decoder.embed_tokens.weight"] = tensors.pop(EMBEDDINGS)
        return tensors

    rewrite(saved, tmp_path, keep_the_decoders)
    check_same_weights(load_backbone(tmp_path), loaded)


@pytest.mark.once
@pytest.mark.parametrize("layout", ["saved", "bare"])
@pytest.mark.parametrize("name", ["lm_head.out_proj.weight", "model.decoder.embed_tokens.weight"])
def test_tied_tensors_that_differ(saved, tmp_path, layout, name):
    """In one bit of the last number."""

    def change(tensors):
        tensors = with_copies(lambda name: name, tensors)
        other = tensors[name].clone()
        other[-1, -1] = torch.nextafter(other[-1, -1], torch.tensor(1.0))
        return renamed(LAYOUTS[layout], {**tensors, name: other})

    rewrite(saved, tmp_path, change)
    names = [LAYOUTS[layout](part) for part in (EMBEDDINGS, name)]
    with pytest.raises(ValueError, match="must be equal") as error:
        load_backbone(tmp_path)
    assert all(part in str(error.value) for part in names)


def test_tied_tensors_that_differ_in_the_sign_of_a_zero(saved, tmp_path):
    def change(tensors):
        tensors[END_OF_IMAGE][3] = 0.0
        copy = tensors[END_OF_IMAGE].clone()
        copy[3] = -0.0
        return {**tensors, "model.decoder.embed_tokens.eoi_embedding": copy}

    rewrite(saved, tmp_path, change)
    with pytest.raises(ValueError, match=r"decoder.embed_tokens.eoi_embedding.* must be equal"):
        load_backbone(tmp_path)


def test_tied_tensors_of_different_type(saved, tmp_path):
    def change(tensors):
        return {**tensors, "lm_head.out_proj.weight": tensors[EMBEDDINGS].double()}

    rewrite(saved, tmp_path, change)
    with pytest.raises(ValueError, match=r"lm_head.out_proj.weight.* must be equal"):
        load_backbone(tmp_path)


@pytest.mark.once
def test_encoder_alone(saved, tmp_path):
    def change(tensors):
        return {
            name.removeprefix("model.encoder."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.encoder.")
        }

    rewrite(saved, tmp_path, change)
    message = r"Missing \(53\): model.decoder.layers.0.mlp.down_proj.weight, .* and 43 more$"
    with pytest.raises(ValueError, match=message):
        load_backbone(tmp_path)


@pytest.mark.once
def test_missing_and_unexpected_tensors_are_named_together(saved, tmp_path):
    def change(tensors):
        del tensors["model.decoder.norm.weight"]
        return {**tensors, "scores.weight": torch.zeros(3)}

    rewrite(saved, tmp_path, change)
    with pytest.raises(
        ValueError,
        match=r"Missing \(1\): model.decoder.norm.weight. Unexpected \(1\): scores.weight",
    ):
        load_backbone(tmp_path)


def test_misshapen_tensor(saved, tmp_path):
    name = "model.decoder.layers.1.mlp.up_proj.weight"

    def change(tensors):
        return {**tensors, name: tensors[name].T.contiguous()}

    rewrite(saved, tmp_path, change)
    message = rf"{name}, .*must have the shape \(56, 40\) in the checkpoint.*shape=\(40, 56\)"
    with pytest.raises(ValueError, match=message):
        load_backbone(tmp_path)


def test_quantized_tensor(saved, tmp_path):
    name = "model.decoder.layers.1.mlp.up_proj.weight"

    def change(tensors):
        return {**tensors, name: tensors[name].to(torch.int8)}

    rewrite(saved, tmp_path, change)
    with pytest.raises(ValueError, match=rf"Received: {name} of type int8 in .*model.safetensors"):
        load_backbone(tmp_path)


def test_truncated_file(saved, tmp_path):
    rewrite(saved, tmp_path, lambda tensors: tensors)
    content = _weights(tmp_path).read_bytes()
    _weights(tmp_path).write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is no whole safetensors file"):
        load_backbone(tmp_path)


def test_other_formats_and_no_config(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold config.json"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"safetensors.*config.json, pytorch_model.bin"):
        load_backbone(tmp_path)


@pytest.mark.once
def test_text_only(saved, tmp_path, inputs):
    """Without the vision tower the file needs no tensors of it, and may have any."""

    def change(tensors):
        tower = "model.encoder.vision_tower."
        tensors = {name: t for name, t in tensors.items() if not name.startswith(tower)}
        return {**tensors, f"{tower}encoder.strange": torch.zeros(3)}

    rewrite(saved, tmp_path, change)
    backbone = load_backbone(tmp_path, text_only=True)
    assert backbone.config.vision is None
    assert not [weight.path for weight in backbone.weights if "vision" in weight.path]
    text = {name: array for name, array in inputs.items() if name != "images"}
    wanted = reference_logits(tiny_reference(), inputs, with_images=False)
    check_logits(backbone, text, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_dtype(saved, loaded, dtype):
    backbone = load_backbone(saved, dtype=dtype)
    variable_dtype = keras.DTypePolicy(dtype).variable_dtype
    for weight, wanted in zip(backbone.weights, loaded.weights, strict=True):
        assert keras.backend.standardize_dtype(weight.value.dtype) == variable_dtype, weight.path
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ops.cast(weight.value, "float32")),
            ops.convert_to_numpy(ops.cast(ops.cast(wanted.value, variable_dtype), "float32")),
        )


@pytest.mark.once
def test_no_dtype_is_the_global_policy(saved):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        backbone = load_backbone(saved)
    finally:
        keras.config.set_dtype_policy(before)
    assert {weight.dtype for weight in backbone.weights} == {"bfloat16"}


def test_bfloat16_file(saved, tmp_path):
    """What the hub has: bfloat16 in the file, widened exactly."""

    def widened(tensors):
        return {name: tensor.bfloat16().float() for name, tensor in tensors.items()}

    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    narrow.mkdir(), wide.mkdir()
    rewrite(saved, narrow, lambda tensors: {n: t.bfloat16() for n, t in tensors.items()})
    rewrite(saved, wide, widened)
    check_same_weights(load_backbone(narrow), load_backbone(wide))


@pytest.mark.once
def test_no_weights(saved, loaded, tmp_path):
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    backbone = load_backbone(tmp_path, load_weights=False, name="mine")
    assert backbone.name == "mine"
    assert backbone.config == loaded.config
    assert np.std(numpy_weights(backbone)["embedder/table/embeddings"]) > 0.01
