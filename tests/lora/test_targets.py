"""Which layers a target means, and which take no adapter."""

import json

import pytest
from tasks import ONE_LAYER
from tiny_models import CONFIG as VISION_CONFIG
from tiny_models import TEXT_CONFIG, tiny_backbone

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.lora import targets
from keras_t5gemma2.lora.config import LoRAConfig

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("text", [f"{s}/layer_0/{n}" for s in ("encoder", "decoder") for n in (
            *("attention/query", "attention/key", "attention/value", "attention/output"),
            *("mlp/gate", "mlp/up", "mlp/down"),
        )]),
        (["up", "query"], [
            *("encoder/layer_0/attention/query", "encoder/layer_0/mlp/up"),
            *("decoder/layer_0/attention/query", "decoder/layer_0/mlp/up"),
        ]),
        ("decoder/.*/(key|gate)", ["decoder/layer_0/attention/key", "decoder/layer_0/mlp/gate"]),
        (("encoder/layer_0/mlp/down",), ["encoder/layer_0/mlp/down"]),
    ],
    ids=["text", "names", "regex", "path"],
)  # fmt: skip
def test_targets(target, expected):
    backbone = tiny_backbone(ONE_LAYER)
    found = targets.resolve(target, backbone)
    assert found == expected
    assert targets.resolve(targets.describe(found, backbone), backbone) == found


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["query", "q_proj"], "'q_proj'"),
        (["table"], "among query, key, .*Received: 'table'"),
        ([], "at least one layer"),
        ("query", "target='query', which matches none"),
        (".*query", "target='.*query', which matches vision/tower/layer_0/query"),
        ("embedder/table", "which matches embedder/table"),
        ("decoder/(", "must be a regular expression.*unterminated"),
    ],
)
def test_targets_that_take_no_adapter(target, message):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(VISION_CONFIG))
    trainable = len(lm.trainable_variables)
    with pytest.raises(ValueError, match=message):
        lm.enable_lora(rank=2, target=target)
    assert lm.adapters == {} and len(lm.trainable_variables) == trainable


def test_layers_without_a_common_name_are_described_by_their_paths():
    """A name would mean the layers of both stacks."""
    backbone = tiny_backbone(ONE_LAYER)
    paths = list(targets.dense_layers(backbone))
    assert targets.describe(paths[::-1], backbone) == "text"
    assert targets.describe(["decoder/layer_0/mlp/up"], backbone) == ("decoder/layer_0/mlp/up",)
    both = ["decoder/layer_0/mlp/up", "encoder/layer_0/mlp/up"]
    assert targets.describe(both, backbone) == ("up",)


@pytest.mark.once
def test_patterns_by_names_paths_and_expressions():
    """The first key that means a layer counts; layers of rank 0 are left out."""
    backbone = tiny_backbone(TEXT_CONFIG)
    config = LoRAConfig(
        4,
        target=["query", "value"],
        rank_pattern={"encoder/layer_0/attention/query": 1, "decoder/.*": 0, "query": 7},
        alpha_pattern={"value": 9},
    )
    config, paths = targets.resolve_config(config, backbone)
    assert all(path.startswith("encoder/") for path in paths)
    ranks = {path.removeprefix("encoder/"): config.rank_of(path) for path in paths}
    assert ranks["layer_0/attention/query"] == 1
    assert ranks["layer_1/attention/query"] == 7
    assert ranks["layer_1/attention/value"] == 4
    assert config.scale_of("encoder/layer_1/attention/value") == 9 / 4
    assert LoRAConfig.from_file(json.loads(json.dumps(config.to_dict())), "here") == config
    for pattern, message in (
        ({"vision": 3}, "Received: vision, which matches none|'vision', which matches none"),
        ({"(": 3}, "a name, a path or a regular expression"),
        ({"query": 0, "value": 0}, "must leave a rank above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong = LoRAConfig(4, target=["query", "value"], rank_pattern=pattern)
            targets.resolve_config(wrong, backbone)
