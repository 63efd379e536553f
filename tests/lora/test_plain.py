"""Adapters of any kind as plain LoRA."""

import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2.lora.plain import kept_triplets, plain_adapter

OPTIONS = {
    "triplets": {},
    "pissa": {"init": "pissa", "rank_pattern": {"query": 2}, "alpha_pattern": {"value": 9}},
    "olora, rsLoRA": {"init": "olora", "use_rslora": True},
}


def task_with(name, seed=0):
    lm = small_task()
    lm.enable_lora(rank=3, alpha=5, target=["query", "value"], **OPTIONS[name])
    if name == "triplets":
        lm.adapter_set.make_triplets()
    rng = np.random.default_rng(seed)
    for variable in lm.trainable_variables:
        variable.assign(variable + 0.5 * rng.normal(size=variable.shape))
    return lm


@pytest.mark.once
@pytest.mark.parametrize(
    "name", [n if n == "triplets" else pytest.param(n, marks=pytest.mark.once) for n in OPTIONS]
)
def test_plain_adapter_computes_the_same(name, tmp_path):
    """With what is masked left out; through the file of an adapter, too."""
    lm = task_with(name)
    if name == "triplets":
        for i, adapter in enumerate(lm.adapter_set.trained_adapters().values()):
            adapter.e.assign(adapter.e * [1.0, i % 2, 0.0])
    want = lm.score(SMALL_ROWS)
    lm.save_adapter(tmp_path / "one.safetensors")
    lm.load_adapter(tmp_path / "one.safetensors", name="plain")
    np.testing.assert_allclose(lm.score(SMALL_ROWS), want, rtol=1e-5)
    lm.set_adapter(None)
    assert np.abs(lm.score(SMALL_ROWS) - want).min() > 1e-3
    config = lm.adapters["plain"]
    if name == "triplets":
        ranks = {own.a.shape[1] for own in _of(lm, "plain").values()}
        assert ranks == {1, 2}
    else:
        assert (config["rank"], "init" in config) == (6, False)


def _of(lm, name):
    layers = lm.adapter_set.layers()
    return {p: x.adapters[name] for p, x in layers.items() if name in x.adapters}


@pytest.mark.once
def test_layers_without_a_triplet_are_left_out():
    lm = task_with("triplets")
    own = lm.adapter_set.trained_adapters()
    first = next(iter(own))
    own[first].e.assign([0.0, 0.0, 0.0])
    config, tensors = plain_adapter(lm.backbone, "default", lm.adapter_set.configs["default"])
    assert first not in {key.rpartition("/")[0] for key in tensors}
    assert set(config.target) == set(own) - {first}
    assert not kept_triplets(own)[first].any()
    for adapter in own.values():
        adapter.e.assign([0.0, 0.0, 0.0])
    assert all(is_kept.all() for is_kept in kept_triplets(own).values())


@pytest.mark.once
def test_merging_takes_triplets_and_starts_along():
    for name in OPTIONS:
        lm = task_with(name)
        kernel = next(iter(lm.adapter_set.layers().values())).matrix_variable
        before, want = np.array(ops.convert_to_numpy(kernel)), lm.score(SMALL_ROWS)
        lm.merge_adapter()
        np.testing.assert_allclose(lm.score(SMALL_ROWS), want, rtol=1e-4)
        lm.unmerge_adapter()
        np.testing.assert_allclose(ops.convert_to_numpy(kernel), before, atol=1e-5)
