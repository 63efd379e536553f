"""A backbone whose MLPs became experts: what it computes, learns and holds."""

import numpy as np
import pytest
from keras import ops
from tiny_models import CONFIG, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import ExpertsConfig
from keras_t5gemma2.model.experts import Experts
from keras_t5gemma2.model.upcycling import with_experts


def experts_of(backbone):
    mlps = (block.mlp for stack in backbone.stacks for block in stack.blocks)
    return [mlp for mlp in mlps if isinstance(mlp, Experts)]


def upcycled(backbone, every=2, **options):
    made = with_experts(
        backbone, ExpertsConfig(4, every=every, **options), ("encoder", "decoder"), seed=0
    )
    for i, layer in enumerate(experts_of(made)):
        layer.router.assign(np.random.default_rng(i).normal(0, 2, layer.router.shape))
    return made


def outputs(backbone, inputs):
    found = backbone(inputs)
    return {
        name: ops.convert_to_numpy(value) * inputs[f"{name.split('_')[0]}_padding_mask"][..., None]
        for name, value in found.items()
    }


@pytest.mark.once
@pytest.mark.parametrize(("side", "every"), [("left", 2), ("right", 1)])
def test_it_does_what_the_dense_one_did(rng, side, every):
    dense = tiny_backbone(CONFIG)
    sparse = upcycled(dense, every)
    assert len(experts_of(sparse)) == (5 if every == 1 else 2)
    inputs = token_inputs(rng, (9, 4), (6, 2), side=side)
    want, got = outputs(dense, inputs), outputs(sparse, inputs)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **TOLERANCE["float32"])


@pytest.mark.once
def test_each_expert_is_a_copy_and_only_the_layers_that_were_meant_have_them():
    dense = tiny_backbone(CONFIG)
    made = with_experts(dense, ExpertsConfig(3), ("decoder",), seed=0)
    assert [layer.path for layer in experts_of(made)] == ["decoder/layer_1/mlp"]
    want = ops.convert_to_numpy(dense.decoder.blocks[1].mlp.up.kernel)
    for expert in experts_of(made)[0].experts:
        assert np.array_equal(ops.convert_to_numpy(expert.up.kernel), want)
    assert made.config.decoder.experts == ExpertsConfig(3) and made.config.encoder.experts is None


@pytest.mark.once
def test_integers_are_copied_as_they_are():
    dense = tiny_backbone(CONFIG)
    dense.quantize("int8")
    made = upcycled(dense)
    modes = made.quantized_layers
    assert modes["decoder/layer_1/mlp/expert_3/down"] == "int8"
    assert len(modes) == len(dense.quantized_layers) + 2 * 3 * 3
