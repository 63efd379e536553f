"""A backbone some of whose MLPs are several, copies of what each was."""

import re

import numpy as np

from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.model.loading import build_with_weights
from keras_t5gemma2.model.resizing import adapter_variables, copied

_MLP = re.compile(r"(?P<stack>encoder|decoder)/layer_(?P<layer>\d+)/mlp/(?P<rest>(gate|up|down).*)")


def with_experts(backbone, experts, stacks, seed):
    """A new backbone whose MLPs are copied into experts, with routers that are drawn.

    Its weights are copies, one of which is made at a time. Adapters stay behind, unless they are
    merged. Weights of integers stay as they are.

    Args:
        backbone: `T5Gemma2Backbone` without experts, which stays as it is.
        experts: `ExpertsConfig`.
        stacks: names of the stacks that get them.
        seed: int, of the routers.

    Returns:
        A backbone of the same class.
    """
    fields = backbone.get_config()
    described = dict(fields["config"])
    for stack in stacks:
        described[stack] = {**described[stack], "experts": vars(experts)}
    fields["config"] = described
    of_experts = {stack: experts for stack in stacks}
    modes = (fields["quantized_layers"] or {}).items()
    fields["quantized_layers"] = {new: m for old, m in modes for new in _paths(old, of_experts)}
    of_adapters = {id(variable) for variable in adapter_variables(backbone)}
    tensors = {
        path: copied(variable, None, None)
        for variable in backbone.weights
        if id(variable) not in of_adapters
        for path in _paths(variable.path, of_experts)
    }
    tensors |= _routers(backbone.config, of_experts, np.random.default_rng(seed))
    made = build_with_weights(
        lambda: type(backbone).from_config(fields), tensors, allow_nonfinite=True
    )
    if backbone.vision is not None:
        made.vision.tower.trainable = backbone.vision.tower.trainable
    return made


def _paths(path, of_experts):
    """Where what stands at a path goes: to one place, or to each expert of a layer."""
    found = _MLP.fullmatch(path)
    experts = of_experts.get(found["stack"]) if found else None
    if experts is None or not experts.is_in(int(found["layer"])):
        return [path]
    layer = path.removesuffix(found["rest"])
    return [f"{layer}expert_{i}/{found['rest']}" for i in range(experts.num_experts)]


def _routers(config, of_experts, rng):
    found = {}
    for stack, experts in of_experts.items():
        sizes = config.stacks[stack]
        shape = sizes.hidden_dim, experts.num_experts
        for i in filter(experts.is_in, range(len(sizes.layers))):
            path = f"{stack}/layer_{i}/mlp/router"
            values = rng.normal(0.0, 0.02, shape).astype("float32")
            found[path] = StoredTensor(path, shape, lambda values=values: values)
    return found
