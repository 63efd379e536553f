"""Ranks and alphas of single layers in the configurations of the peft library."""

import re

from keras_t5gemma2.messages import shown


def written(config, modules):
    """peft's patterns of a configuration, by whole names of modules."""
    of_paths = {"rank": config.rank_of, "alpha": config.alpha_of}
    return {
        f"{field}_pattern": {
            module: value_of(path)
            for path, module in modules.items()
            if value_of(path) != getattr(config, field)
        }
        for field, value_of in of_paths.items()
    }


def read(fields, tensors, modules, path):
    """Our patterns: ranks as the tensors have them, and alphas by the keys of the file."""
    found = {"rank_pattern": {}, "alpha_pattern": {}}
    alphas = [(alpha_rule(key, path), alpha) for key, alpha in
              (fields.get("alpha_pattern") or {}).items()]  # fmt: skip
    for layer, module in modules.items():
        if (a := tensors.get(f"{layer}/lora_a")) is None:
            continue
        if a.shape[1] != fields.get("r"):
            found["rank_pattern"][layer] = a.shape[1]
        # peft takes the first key that matches.
        alpha = next((alpha for matches, alpha in alphas if matches(module)), None)
        if alpha is not None:
            found["alpha_pattern"][layer] = alpha
    return {name: pattern for name, pattern in found.items() if pattern}


def alpha_rule(key, path):
    """Whether peft takes a key of `alpha_pattern` to mean the module of a name.

    Keys are expressions of whoever wrote the file: those that could take long are refused.

    Raises:
        ValueError: the key is none, or could take long.
    """
    is_short = isinstance(key, str) and len(key) <= 300 and len(re.findall(r"[*+?{]", key)) <= 2
    if is_short and not re.search(r"\)[*+?{]|\\[0-9]|\(\?", key):
        try:
            return re.compile(rf"(.*\.)?({key})$").match
        except re.error:
            pass
    raise ValueError(
        f"The keys of `alpha_pattern` in {path} must be names of modules, or expressions with at "
        f"most two of * + ? and none after a group. Received: {shown(key)}"
    )
