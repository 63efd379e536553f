"""A mixture of experts made of a dense model."""

from collections.abc import Sequence
from typing import Literal

from keras_t5gemma2.config import ExpertsConfig
from keras_t5gemma2.messages import shown, shown_names
from keras_t5gemma2.model.upcycling import with_experts
from keras_t5gemma2.options import integer
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.vocabulary import compile_as

_ROUTERS = ("top_k", "switch")


def upcycle(
    lm: T5Gemma2Seq2SeqLM,
    experts: int = 8,
    top_k: int = 2,
    every: int = 2,
    stacks: Sequence[str] = ("encoder", "decoder"),
    router: Literal["top_k", "switch"] = "top_k",
    balance_loss: float = 0.01,
    z_loss: float = 0.001,
    seed: int = 0,
) -> T5Gemma2Seq2SeqLM:
    """A new model some of whose MLPs are experts, each a copy of what the MLP was.

    A router takes `top_k` of the experts for each token and adds up what they give, weighted by
    its probabilities divided by their sum: at first the new model does what the old one did,
    whatever the router says. Training makes experts differ, as they see other tokens (sparse
    upcycling, arXiv 2212.05055). No expert is ever full, and padding takes none.

    The new model generates, trains, adapts, quantizes, saves and loads as any other. In training
    two losses are added: one that is smallest where experts get equally many tokens, and one that
    keeps the router's logits small. At first the loss of the task has no gradient for the router.

    On PyTorch a token costs what `top_k` experts cost. JAX and TensorFlow run each expert that any
    token of a batch takes for all its tokens, and in training all experts; a step of one row there
    reads and runs `top_k` experts only. transformers, keras-hub and CTranslate2 have no such
    layers: what writes their files refuses such a model.

    Args:
        lm: `T5Gemma2Seq2SeqLM` without experts, which stays as it is. Adapters must be merged or
            removed.
        experts: int. Experts of a layer.
        top_k: int. How many a token takes; 1 with `router="switch"`.
        every: int. Every so many layers get experts: 2 means the second, the fourth, and so on.
        stacks: the stacks whose layers get experts, of "encoder" and "decoder".
        router: "top_k"; or "switch", which takes the likeliest expert times its probability
            (arXiv 2101.03961): there the new model does not do what the old one did.
        balance_loss: float. Weight of the first loss: that of transformers' Mixtral, and with
            "switch" of its Switch Transformer.
        z_loss: float. Weight of the second.
        seed: int. Of the routers, which are drawn.

    Raises:
        TypeError: `lm` is no `T5Gemma2Seq2SeqLM`.
        ValueError: a number is not possible, there is no such stack, or `lm` has experts or
            adapters that are not merged.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> sparse = keras_t5gemma2.upcycle(lm, experts=4)
    >>> sparse.generate("Spell 17 in German.", max_new_tokens=8)
    'siebzehn'
    >>> sparse.count_params() > lm.count_params()
    True
    """
    _check(lm, router)
    if router == "switch":
        top_k = _one(top_k)
    config = ExpertsConfig(
        experts, top_k, every, router == "switch", balance_loss=balance_loss, z_loss=z_loss
    )
    _check_layers(lm, config, stacks)
    if integer(seed) is None:
        raise TypeError(f"`seed` must be an integer. Received: seed={shown(seed)}")
    backbone = with_experts(lm.backbone, config, tuple(stacks), seed)
    fields = {key: value for key, value in lm.get_config().items() if key != "adapters"}
    made = type(lm).from_config({**fields, "backbone": backbone, "preprocessor": lm.preprocessor})
    compile_as(made, lm)
    return made


def _check(lm, router):
    if not isinstance(lm, T5Gemma2Seq2SeqLM):
        raise TypeError(f"`lm` must be a `T5Gemma2Seq2SeqLM`. Received: lm={shown(lm)}")
    if router not in _ROUTERS:
        raise ValueError(
            f"`router` must be one of {', '.join(_ROUTERS)}. Received: router={shown(router)}"
        )
    if lm.adapter_set.configs and not lm.adapter_set.is_merged:
        raise ValueError(
            "`lm` must have no adapters beside its weights: they are not copied. Call "
            f"`merge_adapter` or `remove_adapter` first. Received: {shown_names(lm.adapters)}"
        )


def _one(top_k):
    """1, of a `top_k` that is 1 or was not given."""
    if top_k not in (1, 2):
        raise ValueError(
            '`top_k` must be 1 with router="switch", which takes one expert. Received: '
            f"top_k={shown(top_k)}"
        )
    return 1


def _check_layers(lm, config, stacks):
    of_model = lm.backbone.config.stacks
    known = [name for name in stacks if name in of_model] if not isinstance(stacks, str) else []
    if not known or len(known) < len(list(stacks)) or len(set(known)) < len(known):
        raise ValueError(
            f"`stacks` must be a list of some of {', '.join(of_model)}, each once. Received: "
            f"stacks={shown(stacks)}"
        )
    for name in known:
        if of_model[name].experts is not None:
            raise ValueError(
                f"`lm` must have no experts yet. Received: one whose {name} has "
                f"{of_model[name].experts}"
            )
        if not any(map(config.is_in, range(len(of_model[name].layers)))):
            raise ValueError(
                f"`every` must be at most the number of layers. Received: every={config.every}, "
                f"and {len(of_model[name].layers)} layers in the {name}"
            )
