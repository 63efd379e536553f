"""Ranks that share a budget by the inputs of the layers, their table and their picture."""

import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import suggest_ranks

pytestmark = pytest.mark.once
TARGET = ["query", "value", "down"]


def test_ranks_add_up_to_the_budget_and_are_taken_by_enable_lora(tmp_path):
    lm = small_task()
    found = suggest_ranks(lm, SMALL_ROWS, budget=9, target=TARGET)
    assert sum(found.values()) == found.budget == 9
    assert len(found) == 6
    assert len(set(found.values())) > 1
    assert all(0 <= share <= 1 for share in found.shares.values())
    assert found.table().count("\n") == 1 + 6
    lm.enable_lora(rank=2, target=TARGET, rank_pattern=found)
    own = {path: x.a.shape[1] for path, x in lm.adapter_set.trained_adapters().items()}
    assert own == {path: rank for path, rank in found.items() if rank}
    found.plot().savefig(tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").stat().st_size > 1000


def test_adapters_do_not_count():
    lm = small_task()
    plain = suggest_ranks(lm, SMALL_ROWS, budget=9, target=TARGET)
    lm.enable_lora(rank=2, target=TARGET)
    for variable in lm.trainable_variables:
        variable.assign(variable + 1.0)
    assert suggest_ranks(lm, SMALL_ROWS, budget=9, target=TARGET) == plain
    assert lm.active_adapter == "default"


@pytest.mark.parametrize("budget", [0, -3, 1.5, "8"])
def test_budget_must_be_a_positive_integer(budget):
    with pytest.raises(ValueError, match="`budget` must be a positive integer"):
        suggest_ranks(small_task(), SMALL_ROWS, budget=budget)
