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
    """Our patterns, by the keys of the file."""
    found = {"rank_pattern": {}, "alpha_pattern": {}}
    rules = {
        name: [(rule(key, name, path), value) for key, value in (fields.get(name) or {}).items()]
        for name in found
    }
    for layer, module in modules.items():
        if f"{layer}/lora_a" not in tensors:
            continue
        for name, of_name in rules.items():
            # peft takes the first key that matches.
            value = next((value for matches, value in of_name if matches(module)), None)
            if value is not None:
                found[name][layer] = value
    return {name: pattern for name, pattern in found.items() if pattern}


def rule(key, name, path):
    """Whether peft takes a key of a pattern to mean the module of a name.

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
        f"The keys of `{name}` in {path} must be names of modules, or expressions with at "
        f"most two of * + ? and none after a group. Received: {shown(key)}"
    )
