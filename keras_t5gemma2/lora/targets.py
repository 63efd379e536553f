"""Which layers an adapter goes on: the dense layers of the text stacks, never anything else."""

import dataclasses
import re

from keras_t5gemma2.messages import cause, shown, shown_names


def dense_layers(backbone):
    """Dict of the `Dense` layers of the stacks by their paths, in their order."""
    found = {}
    for block in (block for stack in backbone.stacks for block in stack.blocks):
        layers = []
        for attention in filter(None, (block.attention, block.cross_attention)):
            layers += [attention.query, attention.key, attention.value, attention.output_dense]
        for mlp in block.mlp.experts if block.has_experts else [block.mlp]:
            layers += [mlp.gate, mlp.up, mlp.down]
        found |= {layer.path: layer for layer in layers}
    return found


def resolve(target, backbone):
    """The paths of the layers that `target` means, as a list in the order of the model.

    Args:
        target: "text" for all; a tuple of names such as `("query", "value")`, or of whole paths
            such as `"decoder/layer_0/attention/query"`; or a regular expression that the whole
            path must match, such as `"decoder/.*/(query|value)"`.
        backbone: `T5Gemma2Backbone`.

    Raises:
        ValueError: it means no layer, or one that takes no adapter.
    """
    paths = list(dense_layers(backbone))
    if target == "text":
        return paths
    if isinstance(target, str):
        return _matching(target, paths, backbone)
    names = list(dict.fromkeys(_name(path) for path in paths))
    if unknown := [name for name in target if name not in names and name not in paths]:
        raise ValueError(
            f"The names in `target` must be among {', '.join(names)}, or whole paths such as "
            f"{paths[0]}; the vision tower, the norms and the embedding table take no adapter. "
            f"Received: {shown_names(unknown)}"
        )
    if not target:
        raise ValueError("`target` must name at least one layer. Received: target=[]")
    return [path for path in paths if path in target or _name(path) in target]


def describe(paths, backbone):
    """The shortest target that means `paths`: the inverse of `resolve`."""
    every = list(dense_layers(backbone))
    paths = [path for path in every if path in set(paths)]
    if paths == every:
        return "text"
    names = tuple(dict.fromkeys(_name(path) for path in paths))
    return names if resolve(names, backbone) == paths else tuple(paths)


def resolve_config(config, backbone):
    """A configuration whose target and patterns are names and paths, and the paths of its layers.

    Expressions are run here, and go into no file; layers of rank 0 are left out.

    Args:
        config: `LoRAConfig`.
        backbone: `T5Gemma2Backbone`.

    Returns:
        The `LoRAConfig`, and a list of paths.

    Raises:
        ValueError: a target or a key means no layer, or all ranks are 0.
    """
    paths = resolve(config.target, backbone)
    ranks, alphas = (
        _resolved_pattern(name, getattr(config, name), paths)
        for name in ("rank_pattern", "alpha_pattern")
    )
    config = dataclasses.replace(config, rank_pattern=ranks, alpha_pattern=alphas)
    kept = [path for path in paths if config.rank_of(path)]
    if not kept:
        raise ValueError(
            "`rank_pattern` must leave a rank above 0 on at least one layer. Received: "
            f"rank_pattern={shown(ranks)}"
        )
    if kept == paths and not isinstance(config.target, str):
        return config, paths
    ranks = {key: rank for key, rank in ranks.items() if rank}
    return dataclasses.replace(config, target=describe(kept, backbone), rank_pattern=ranks), kept


def _resolved_pattern(name, pattern, paths):
    """The pattern with whole paths in place of expressions; the first key that matches counts."""
    names = {_name(path) for path in paths}
    if all(key in names or key in paths for key in pattern):
        return dict(pattern)
    found = {}
    for key, value in pattern.items():
        matches = _path_rule(name, key, names)
        if not (some := [path for path in paths if matches(path)]):
            raise ValueError(
                f"Each key of `{name}` must be the name or the path of a layer with an adapter, "
                f"such as {paths[0]}, or a regular expression that matches the whole path of one. "
                f"Received: {shown(key)}, which matches none."
            )
        found |= {path: value for path in some if path not in found}
    return found


def _path_rule(name, key, names):
    if key in names:
        return lambda path: _name(path) == key
    try:
        return re.compile(key).fullmatch
    except re.error as error:
        raise ValueError(
            f"Each key of `{name}` must be a name, a path or a regular expression. Received: "
            f"{shown(key)} ({cause(error)})"
        ) from error


def _matching(pattern, paths, backbone):
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise ValueError(
            f"`target` must be a regular expression. Received: target={shown(pattern)} "
            f"({cause(error)})"
        ) from error
    owners = {variable.path.rpartition("/")[0] for variable in backbone.weights}
    if others := sorted(path for path in owners - set(paths) if matches(path)):
        raise ValueError(
            "`target` must match dense layers of encoder and decoder only; the vision tower, the "
            f"norms and the embedding table take no adapter. Received: target={shown(pattern)}, "
            "which "
            f"matches {others[0]}. Begin it with (encoder|decoder)/, say."
        )
    if found := [path for path in paths if matches(path)]:
        return found
    raise ValueError(
        f"`target` must match the whole path of a layer, such as {paths[0]}; for layers of a "
        f"name give a list: ['query', 'value']. Received: target={shown(pattern)}, which matches "
        "none."
    )


def _name(path):
    return path.rpartition("/")[2]
