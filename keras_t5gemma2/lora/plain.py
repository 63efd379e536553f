"""An adapter of any kind as plain LoRA, which is what files hold: equal outputs, other matrices."""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_t5gemma2.lora import targets


def plain_adapter(backbone, name, config):
    """The `LoRAConfig` and the tensors of a model's adapter as plain LoRA, rsLoRA or DoRA.

    What a start took out of the kernel becomes further columns: of `init="pissa"` the rank is
    twice as high. Of triplets, those that are masked are left out, E goes into A, and the scale is
    1.

    Args:
        backbone: `T5Gemma2Backbone`.
        name: string.
        config: `LoRAConfig` of the adapter.

    Returns:
        The `LoRAConfig`; and a dict of arrays by the layer's path and "lora_a" (in, rank),
        "lora_b" (rank, out) or "magnitude" (out,).
    """
    layers = {p: x for p, x in targets.dense_layers(backbone).items() if name in x.adapters}
    own = {path: layer.adapters[name] for path, layer in layers.items()}
    if config.triplets:
        return _of_triplets(backbone, own, config)
    tensors = {}
    for path, adapter in own.items():
        if adapter.start_a is None:
            arrays = adapter.variables
        else:
            a, b = adapter.factors("float32")
            arrays = {**adapter.trained, "lora_a": a, "lora_b": b}
        for part, value in arrays.items():
            tensors[f"{path}/{part}"] = ops.convert_to_numpy(value)
    plain = config.plain()
    if any(adapter.start_a is not None for adapter in own.values()):
        plain = _of_twice_the_rank(plain)
    return plain, tensors


def _of_twice_the_rank(config):
    """As a configuration, with the same scales."""
    times = math.sqrt(2) if config.use_rslora else 2
    return dataclasses.replace(
        config,
        rank=2 * config.rank,
        alpha=times * config.alpha,
        rank_pattern={key: 2 * rank for key, rank in config.rank_pattern.items()},
        alpha_pattern={key: times * alpha for key, alpha in config.alpha_pattern.items()},
    )


def _of_triplets(backbone, own, config):
    kept = kept_triplets(own)
    tensors = {}
    for path, is_kept in kept.items():
        a, b = (ops.convert_to_numpy(x) for x in own[path].factors("float32"))
        if is_kept.any():
            tensors[f"{path}/lora_a"] = a[:, is_kept] * np.float32(own[path].scale)
            tensors[f"{path}/lora_b"] = b[is_kept]
    ranks = {path: int(is_kept.sum()) for path, is_kept in kept.items() if is_kept.any()}
    rank = max(ranks.values())
    others = {path: found for path, found in ranks.items() if found != rank}
    target = targets.describe(ranks, backbone)
    patterns = {"rank_pattern": others, "alpha_pattern": others, "target": target}
    return dataclasses.replace(config.plain(), rank=rank, alpha=rank, **patterns), tensors


def kept_triplets(adapters):
    """Dict by paths of (rank,) bools, which triplets add anything; all if none does anywhere.

    Args:
        adapters: dict of `Adapter` by paths.
    """
    kept = {path: ops.convert_to_numpy(adapter.e) != 0 for path, adapter in adapters.items()}
    if not any(is_kept.any() for is_kept in kept.values()):  # nothing has been trained
        return {path: np.ones_like(is_kept) for path, is_kept in kept.items()}
    return kept
