"""Experts: a sum of MLPs, and the losses of their router."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import DECODER, LOCAL, randomize
from tolerances import TOLERANCE

from keras_t5gemma2 import ExpertsConfig
from keras_t5gemma2.model.experts import Experts, Routed, balance_loss
from keras_t5gemma2.model.rotary import Positions

WIDTH, COUNT = DECODER.hidden_dim, 4
POSITIONS = np.array([[0, 1, 2, 3, 4], [0, 1, 2, -1, -1]], "int32")


def experts(**options):
    config = dataclasses.replace(DECODER, experts=ExpertsConfig(COUNT, **options))
    layer = Experts(config)
    layer.build(None)
    randomize(layer)
    layer.router.assign(np.random.default_rng(3).normal(0, 1, (WIDTH, COUNT)))
    return layer


def at(positions=POSITIONS):
    return Positions(ops.convert_to_tensor(positions), [LOCAL])


def arrays(rng, layer):
    """Tokens, and what the formula makes of them: logits, probabilities, outputs of experts."""
    x = rng.standard_normal((2, 5, WIDTH)).astype("float32")
    logits = x @ ops.convert_to_numpy(layer.router)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    outputs = [ops.convert_to_numpy(expert(ops.convert_to_tensor(x))) for expert in layer.experts]
    return x, logits, probabilities, np.stack(outputs, 2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_k": 3}, {"top_k": 1, "switch": True}])
def test_it_is_its_formula_and_padding_takes_no_expert(rng, options, training):
    layer = experts(**options)
    x, _, probabilities, outputs = arrays(rng, layer)
    want = np.zeros_like(x)
    for place in np.argwhere(POSITIONS >= 0):
        of_token = probabilities[tuple(place)]
        taken = np.argsort(-of_token)[: options["top_k"]]
        shares = of_token[taken]
        shares = shares if options.get("switch") else shares / shares.sum()
        want[tuple(place)] = (shares[:, None] * outputs[tuple(place)][taken]).sum(0)
    got = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), at=at(), training=training))
    np.testing.assert_allclose(got, want, **TOLERANCE["float32"])


def routed(rng, layers=2, positions=POSITIONS, **options):
    """What several layers say in training, and their logits."""
    found, logits = [], []
    for _ in range(layers):
        layer, places = experts(**options), at(positions)
        layer.router.assign(rng.normal(0, 1, (WIDTH, COUNT)))
        x, of_layer, *_ = arrays(rng, layer)
        layer(ops.convert_to_tensor(x), at=places, training=True)
        found += places.routed
        logits.append(of_layer)
    return found, logits


@pytest.mark.once
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_balance_is_that_of_mixtral(rng, top_k):
    torch = pytest.importorskip("torch")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    found, logits = routed(rng, top_k=top_k)
    tensors = tuple(torch.tensor(x.reshape(-1, COUNT)) for x in logits)
    mask = torch.tensor((POSITIONS >= 0).astype("int64"))
    want = load_balancing_loss_func(tensors, COUNT, top_k, mask)
    config = ExpertsConfig(COUNT, top_k, balance_loss=1.0, z_loss=0.0)
    assert float(balance_loss(config, found)) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.once
def test_the_losses_of_switch_are_those_of_the_reference(rng):
    """Which knows no padding: here there is none."""
    torch = pytest.importorskip("torch")
    from transformers.models.switch_transformers import modeling_switch_transformers as reference

    positions = np.tile(np.arange(5, dtype="int32"), (2, 1))
    found, (logits,) = routed(rng, 1, positions, top_k=1, switch=True)
    logits = torch.tensor(logits)
    probabilities = logits.softmax(-1)
    chosen = probabilities.argmax(-1)
    want = reference.load_balancing_loss_func(probabilities, chosen)
    config = ExpertsConfig(COUNT, 1, switch=True, balance_loss=1.0, z_loss=0.0)
    assert float(balance_loss(config, found)) == pytest.approx(float(want), rel=1e-5)
    want = reference.router_z_loss_func(logits)
    config = dataclasses.replace(config, balance_loss=0.0, z_loss=1.0)
    assert float(balance_loss(config, found)) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("switch", [False, True])
def test_rows_of_padding_alone_change_no_loss(rng, switch):
    config = ExpertsConfig(COUNT, 1, switch=switch)
    found, _ = routed(rng, 1, top_k=1, switch=switch)
    alone = [Routed(*(x[:1] for x in found[0]))]
    padded = [Routed(*(ops.concatenate([x[:1], ops.zeros_like(x[:1])]) for x in found[0]))]
    losses = [float(balance_loss(config, one)) for one in (alone, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] > 0


@pytest.mark.skipif(keras.config.backend() != "torch", reason="others run all tokens of an expert")
def test_a_token_costs_what_its_experts_cost(rng, monkeypatch):
    layer = experts(top_k=2)
    tokens = []
    for expert in layer.experts:
        call = expert.call
        monkeypatch.setattr(
            expert, "call", lambda x, call=call, **k: tokens.append(x.shape[1]) or call(x, **k)
        )
    layer(ops.convert_to_tensor(arrays(rng, layer)[0]), at=at())
    del tokens[:COUNT]  # of `arrays`
    assert sum(tokens) == 2 * (POSITIONS >= 0).sum()
