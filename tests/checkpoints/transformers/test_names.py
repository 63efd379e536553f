"""The table of names: complete, one to one, and the same for every way of naming."""

import pytest
from reference_models import tiny_config, tiny_reference

from keras_t5gemma2.checkpoints.transformers.config import config_from_transformers
from keras_t5gemma2.checkpoints.transformers.names import (
    canonical_name,
    is_copy,
    is_vision_name,
    published_name,
    rows,
)
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.loading import shapes_only

pytestmark = pytest.mark.once


def tiny_backbone_config(**options):
    return config_from_transformers({"model_type": "t5gemma2", **tiny_config()}, **options)


@pytest.mark.parametrize("text_only", [False, True])
def test_rows_and_weights_are_one_to_one(text_only):
    config = tiny_backbone_config(text_only=text_only)
    table = rows(config)
    model = shapes_only(lambda: T5Gemma2Backbone(config))
    assert sorted(row.path for row in table) == sorted(weight.path for weight in model.weights)
    assert len({row.name for row in table}) == len(table)


@pytest.mark.slow
def test_rows_are_the_tensors_of_the_reference():
    """Names and shapes, from the reference's own list of tensors."""
    config = tiny_backbone_config()
    model = shapes_only(lambda: T5Gemma2Backbone(config))
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    ours = {row.name: row.layout.from_variable_shape(shapes[row.path]) for row in rows(config)}
    tensors = tiny_reference().state_dict()
    assert ours == {canonical_name(name): tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "names, canonical",
    [
        (
            [
                "model.encoder.layers.12.mlp.up_proj.weight",
                "model.encoder.text_model.layers.12.mlp.up_proj.weight",
                "encoder.layers.12.mlp.up_proj.weight",
                "encoder.text_model.layers.12.mlp.up_proj.weight",
                "layers.12.mlp.up_proj.weight",
                "text_model.layers.12.mlp.up_proj.weight",
            ],
            "model.encoder.layers.12.mlp.up_proj.weight",
        ),
        (
            [
                "model.encoder.vision_tower.encoder.layers.3.mlp.fc1.bias",
                "model.encoder.vision_tower.vision_model.encoder.layers.3.mlp.fc1.bias",
                "encoder.vision_tower.encoder.layers.3.mlp.fc1.bias",
                "encoder.vision_tower.vision_model.encoder.layers.3.mlp.fc1.bias",
                "vision_tower.encoder.layers.3.mlp.fc1.bias",
                "vision_tower.vision_model.encoder.layers.3.mlp.fc1.bias",
            ],
            "model.encoder.vision_tower.encoder.layers.3.mlp.fc1.bias",
        ),
        (
            [
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
                "decoder.embed_tokens.weight",
                "text_model.embed_tokens.weight",
                "embed_tokens.weight",
                "lm_head.out_proj.weight",
            ],
            "model.encoder.embed_tokens.weight",
        ),
        (
            [
                "model.encoder.text_model.embed_tokens.eoi_embedding",
                "model.decoder.embed_tokens.eoi_embedding",
                "decoder.embed_tokens.eoi_embedding",
            ],
            "model.encoder.embed_tokens.eoi_embedding",
        ),
        (["norm.weight", "encoder.norm.weight"], "model.encoder.norm.weight"),
        (["decoder.norm.weight", "model.decoder.norm.weight"], "model.decoder.norm.weight"),
        (
            ["multi_modal_projector.mm_soft_emb_norm.weight"],
            "model.encoder.multi_modal_projector.mm_soft_emb_norm.weight",
        ),
    ],
)
def test_every_way_of_naming_has_one_canonical_form(names, canonical):
    assert {canonical_name(name) for name in names} == {canonical}
    assert canonical_name(canonical) == canonical


@pytest.mark.parametrize(
    "name", ["score.out_proj.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
)
def test_names_of_other_models_are_left_alone(name):
    assert canonical_name(name) == name


def test_copies():
    assert is_copy("decoder.embed_tokens.weight")
    assert is_copy("lm_head.out_proj.weight")
    assert not is_copy("text_model.embed_tokens.weight")
    assert not is_copy("model.decoder.norm.weight")


def test_vision_names():
    assert is_vision_name("model.encoder.vision_tower.post_layernorm.bias")
    assert is_vision_name("model.encoder.multi_modal_projector.mm_soft_emb_norm.weight")
    assert not is_vision_name("model.encoder.norm.weight")


def test_published_names_are_read_as_what_they_are_written_for():
    names = [row.name for row in rows(tiny_backbone_config())]
    published = [published_name(name) for name in names]
    assert [canonical_name(name) for name in published] == names
    moved = {name for name in names if name not in published}
    assert moved == {name for name in names if name.startswith("model.encoder.vision_tower.")}
