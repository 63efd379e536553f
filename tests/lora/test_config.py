"""What configurations of adapters may hold, in Python and in files."""

import json

import numpy as np
import pytest

from keras_t5gemma2.lora.config import LoRAConfig, check_adapter_name, check_described

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"alpha": -1}, "alpha=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_configurations_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**{"rank": 3, **changes})


@pytest.mark.parametrize("alpha", [np.inf, np.nan, -np.inf, 0, -1, "4", True])
def test_alpha_of_an_adapter_is_finite(alpha):
    with pytest.raises(ValueError, match="`alpha` must be a positive, finite number"):
        LoRAConfig(2, alpha=alpha)


def test_numbers_of_numpy_in_the_config_of_an_adapter():
    config = LoRAConfig(np.int32(4), np.float32(8), np.float64(0.5))
    assert json.loads(json.dumps(config.to_dict())) == LoRAConfig(4, 8.0, 0.5).to_dict()
    for rank in (True, 4.0, np.float32(4)):
        with pytest.raises(ValueError, match="`rank` must be a positive integer"):
            LoRAConfig(rank)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        (dict(rank=4), 1.0),
        (dict(rank=4, alpha=8), 2.0),
        (dict(rank=16, alpha=8, use_rslora=True), 2.0),
        (dict(rank=4, use_rslora=True), 2.0),  # alpha is the rank
    ],
)
def test_scales(options, scale):
    assert LoRAConfig(**options).scale == scale


def test_json_and_back():
    config = LoRAConfig(3, 5, 0.1, ["query", "up"], use_dora=True)
    fields = json.loads(json.dumps(config.to_dict()))
    assert fields["target"] == ["query", "up"]
    assert LoRAConfig.from_file(fields, "here") == config
    assert LoRAConfig.from_file({"rank": 3}, "here") == LoRAConfig(3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], r"its configuration must be an object. Received: \[\]"),
        ({"alpha": 1}, "it must have a `rank`, which is missing"),
        ({"rank": 2, "speed": 1}, "its fields must be among rank, .*'speed'"),
        ({"rank": True}, "its `rank` must be an integer. Received: rank=True"),
        ({"rank": 2, "use_rslora": 1}, "its `use_rslora` must be true or false"),
        ({"rank": 2, "dropout": False}, "its `dropout` must be a number"),
        ({"rank": 2, "target": "que.*"}, '`target` must be "text" or a list of names'),
        ({"rank": 2, "target": ["a", 1]}, '`target` must be "text" or a list of names'),
        ({"rank": 2, "dropout": 1.5}, "`dropout` must be at least 0 and less than 1"),
    ],
)
def test_a_file_that_describes_no_adapter(fields, message):
    with pytest.raises(ValueError, match=f"here must describe a LoRA adapter: .*{message}"):
        LoRAConfig.from_file(fields, "here")


def test_names_of_adapters():
    for name in ("a", "French-2_b", "x" * 100):
        check_adapter_name(name)
    for name in ("", "a/b", "a b", "ä", "x" * 101, "a\n", None, 3):
        with pytest.raises(ValueError, match="must be letters, digits, - and _, 100 at most"):
            check_adapter_name(name)


@pytest.mark.parametrize("active", [None, "one", ["one", "two"], {"one": 0.5}])
def test_adapters_of_a_task_are_described(active):
    configs = {"one": LoRAConfig(2).to_dict(), "two": LoRAConfig(3).to_dict()}
    check_described({"configs": configs, "active": active}, "here")


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (None, "`adapters` of here must describe adapters"),
        ({"configs": {}}, "`adapters` of here must describe adapters: .*active"),
        ({"configs": [], "active": None}, "must describe adapters"),
        ({"configs": {"../x": {"rank": 2}}, "active": None}, "must describe adapters: The name"),
        ({"configs": {"x": {"rank": 0}}, "active": None}, "must describe adapters: x must desc"),
        ({"configs": {"x": {"rank": 2}}, "active": 3}, "must describe adapters"),
        ({"configs": {"x": {"rank": 2}}, "active": "y"}, "only its own adapters active. .*'y'"),
        ({"configs": {"x": {"rank": 2}}, "active": {"x": 1, "y": 1}}, "only its own adapters"),
    ],
)
def test_descriptions_that_are_none(adapters, message):
    with pytest.raises(ValueError, match=message):
        check_described(adapters, "here")


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("rank_pattern", {"query": -1}),
        ("rank_pattern", {"query": 1.5}),
        ("rank_pattern", ["query"]),
        ("rank_pattern", {3: 4}),
        ("alpha_pattern", {"query": 0}),
        ("alpha_pattern", {"query": "a"}),
    ],
)
def test_values_of_patterns_are_checked(name, pattern):
    with pytest.raises(ValueError, match=f"`{name}"):
        LoRAConfig(4, **{name: pattern})


@pytest.mark.once
def test_files_leave_out_what_is_as_by_default_and_what_is_about_training():
    config = LoRAConfig(4, rank_pattern={"query": 2}, lora_plus=16, init="pissa")
    assert "alpha_pattern" not in config.to_dict()
    assert config.plain() == LoRAConfig(4, rank_pattern={"query": 2})
    assert config.scale_of("encoder/layer_0/attention/query") == 2
    with pytest.raises(
        ValueError, match="must name layers by their paths. Received: '\\(a\\+\\)\\+'"
    ):
        LoRAConfig.from_file({"rank": 3, "rank_pattern": {"(a+)+": 2}}, "here")
