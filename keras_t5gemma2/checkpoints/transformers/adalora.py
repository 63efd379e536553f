"""Adapters of AdaLoRA in the format of the peft library: triplets, of which some are kept."""

import numpy as np
from keras import ops

from keras_t5gemma2.lora.plain import kept_triplets
from keras_t5gemma2.messages import shown

# peft takes the end of a name apart: in a file it is without the name of the adapter.
_PARTS = {"lora_a": "lora_A", "lora_e": "lora_E", "lora_b": "lora_B"}
_TINY = 1e-5  # as peft adds it to a rank


def adalora_files(adapters, config, modules):
    """The tensors and the fields of a configuration that peft reads an adapter of AdaLoRA from.

    Args:
        adapters: dict of `Adapter` with E by the paths of layers.
        config: `LoRAConfig` of triplets.
        modules: dict from these paths to peft's names of the modules.

    Returns:
        Two dicts.
    """
    kept, tensors, pattern = kept_triplets(adapters), {}, {}
    for path, adapter in adapters.items():
        a, e, b = (ops.convert_to_numpy(v) for v in (adapter.a, adapter.e, adapter.b))
        is_kept = kept[path]
        arrays = {"lora_a": a.T[is_kept], "lora_e": e[is_kept, None], "lora_b": b.T[:, is_kept]}
        for part, array in arrays.items():
            name = f"base_model.model.{modules[path]}.{_PARTS[part]}"
            tensors[name] = np.ascontiguousarray(array, "float32")
        pattern[f"{modules[path]}.lora_E"] = is_kept.tolist()
    count = sum(int(is_kept.sum()) for is_kept in kept.values())
    fields = {
        "peft_type": "ADALORA",
        "init_r": config.rank,
        "target_r": max(1, round(count / len(kept))),
        # Of a training that has ended.
        **{"tinit": 0, "tfinal": 0, "deltaT": 1, "total_step": 1},
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "rank_pattern": pattern,
    }
    return tensors, fields


def as_lora(arrays, fields, path):
    """Tensors by peft's names of LoRA, and fields of LoRA, that compute what AdaLoRA's do.

    E and the scale go into A, and modules of rank 0 are left out.

    Args:
        arrays: dict of arrays by peft's names.
        fields: dict, the configuration.
        path: of the file, for errors.

    Raises:
        ValueError: the configuration or a tensor is none of AdaLoRA.
    """
    rank, alpha = fields.get("init_r"), fields.get("lora_alpha")
    is_number = all(type(x) in (int, float) and x > 0 for x in (rank, alpha))
    parts = {}
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        if part not in _PARTS.values():
            raise ValueError(
                f"An adapter of AdaLoRA must have lora_A, lora_B and lora_E alone. Received: "
                f"{path}, with {shown(name)}"
            )
        parts.setdefault(module, {})[part] = array
    if not is_number or any(len(of) != 3 for of in parts.values()):
        raise ValueError(
            "An adapter of AdaLoRA must have positive `init_r` and `lora_alpha`, and lora_A, "
            f"lora_B and lora_E of each module. Received: {path}, with init_r={shown(rank)}, "
            f"lora_alpha={shown(alpha)}"
        )
    scale, found = np.float32(alpha / (rank + _TINY)), {}
    for module, of in parts.items():
        a, e, b = (np.asarray(of[part], "float32") for part in ("lora_A", "lora_E", "lora_B"))
        if not e.shape == (len(a), 1) or b.shape[1:] != (len(a),):
            raise ValueError(
                f"The tensors of one module must be of one rank. Received: {path}, with "
                f"{shown(module)} of {a.shape}, {e.shape} and {b.shape}"
            )
        if len(a):
            found[f"{module}.lora_A.weight"] = a * e * scale
            found[f"{module}.lora_B.weight"] = b
    ranks = {name: len(a) for name, a in found.items() if name.endswith(".lora_A.weight")}
    rank = max(ranks.values(), default=1)
    others = {
        name.removesuffix(".lora_A.weight").removeprefix("base_model.model."): own
        for name, own in ranks.items()
        if own != rank
    }
    plain = {"r": rank, "lora_alpha": rank, "alpha_pattern": others, "rank_pattern": others}
    return found, {"lora_dropout": fields.get("lora_dropout", 0.0), **plain}
