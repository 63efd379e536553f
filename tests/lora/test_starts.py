"""What A and B start as, against peft's own starts."""

import numpy as np
import peft
import pytest
import torch
from adapted_layers import UNITS, WIDTH, dense_with
from keras import ops

from keras_t5gemma2.lora import starts
from keras_t5gemma2.lora.config import LoRAConfig

NEAR = {"rtol": 0, "atol": 1e-5}


def of_peft(kernel, **options):
    """A (in, rank) and B (rank, out) as peft has them on a layer with this kernel."""
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, UNITS, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(kernel.T.copy()))
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"], **options))
    found = {n: p.detach().numpy().T for n, p in model.named_parameters() if "lora_" in n}
    return [next(x for n, x in found.items() if part in n) for part in ("lora_A", "lora_B")]


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_factors_equal_those_of_peft_up_to_the_sign(init):
    """And the output is what it was; the files' rank is twice as high for it."""
    plain = dense_with({})
    layer = dense_with({"a": LoRAConfig(3, 5, init=init)}, random=False)
    layer.matrix_variable.assign(plain.matrix_variable)
    starts.start(layer, "a", init)
    adapter = layer.adapters["a"]
    kernel = ops.convert_to_numpy(plain.matrix_variable)
    want = of_peft(kernel, r=3, lora_alpha=5, init_lora_weights=init)
    signs = np.sign(np.sum(want[0] * ops.convert_to_numpy(adapter.a), axis=0))
    np.testing.assert_allclose(ops.convert_to_numpy(adapter.a) * signs, want[0], **NEAR)
    np.testing.assert_allclose(ops.convert_to_numpy(adapter.b) * signs[:, None], want[1], **NEAR)
    x = np.random.default_rng(0).normal(size=(2, WIDTH)).astype("float32")
    same = [ops.convert_to_numpy(one(x)) for one in (layer, plain)]
    np.testing.assert_allclose(*same, **NEAR)


def test_orthogonal_halves_add_nothing():
    layer = dense_with({"a": LoRAConfig(4, init="orthogonal")}, random=False)
    starts.start(layer, "a", "orthogonal")
    a, b = (ops.convert_to_numpy(x) for x in (layer.adapters["a"].a, layer.adapters["a"].b))
    assert min(np.abs(a).max(), np.abs(b).max()) > 0.01
    assert np.linalg.matrix_rank(a) == np.linalg.matrix_rank(b) == 2
    np.testing.assert_allclose(a @ b, 0, atol=1e-6)


@pytest.mark.once
def test_ranks_that_a_start_cannot_have_are_refused():
    odd = dense_with({"a": LoRAConfig(3, init="orthogonal")}, random=False)
    with pytest.raises(ValueError, match="needs even ranks. Received: rank=3"):
        starts.start(odd, "a", "orthogonal")
    high = dense_with({"a": LoRAConfig(8, init="pissa")}, random=False)
    with pytest.raises(ValueError, match=f"rank=8 on dense, whose kernel has {UNITS}"):
        starts.start(high, "a", "pissa")


@pytest.mark.once
@pytest.mark.parametrize("shape", [(700, 540), (540, 700), (30, 700)])
def test_largest_singular_values_of_large_matrices(shape):
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(shape[0], 5)) * [9, 7, 5, 3, 2]) @ rng.normal(size=(5, shape[1]))
    matrix = (matrix + 0.01 * rng.normal(size=shape)).astype("float32")
    u, s, v = starts.largest(matrix, 4)
    want = np.linalg.svd(matrix.astype("float64"), full_matrices=False)
    np.testing.assert_allclose(s, want[1][:4], rtol=1e-5)
    near = (want[0][:, :4] * want[1][:4]) @ want[2][:4]
    np.testing.assert_allclose((u * s) @ v, near, atol=1e-3)


def test_residual_of_int8_and_int4():
    """What is left of the rounding is what no matrix of this rank can take."""
    for mode, config in (("int8", _config("int8")), ("int4", _config("int4"))):
        layer = dense_with({"a": LoRAConfig(2, 3)}, random=False)
        kernel = np.array(starts.float_kernel(layer))
        layer.await_residual("a")
        layer.quantize(mode, config=config)
        residual = kernel - starts.float_kernel(layer)
        a, b = (ops.convert_to_numpy(x) for x in (layer.adapters["a"].a, layer.adapters["a"].b))
        left = np.linalg.norm(residual - 1.5 * a @ b)
        values = np.linalg.svd(residual, compute_uv=False)
        assert left == pytest.approx(np.linalg.norm(values[2:]), rel=1e-3)
        assert left < np.linalg.norm(residual)


def _config(mode):
    from keras_t5gemma2.model.quantize import config_of

    return config_of(mode)


@pytest.mark.once
def test_residuals_are_refused_where_they_mean_nothing():
    layer = dense_with({"a": LoRAConfig(2)})
    layer.await_residual("a")
    with pytest.raises(ValueError, match="must not have been trained before the model is quantiz"):
        layer.quantize("int8", config=_config("int8"))
    other = dense_with({"a": LoRAConfig(2)}, random=False)
    other.quantize("int8", config=_config("int8"))
    with pytest.raises(ValueError, match="far from this one's"):
        starts.start_from_residual(other, "a", np.ones((WIDTH, UNITS), "float32"))
