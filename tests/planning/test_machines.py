"""What published models can do on machines: the choice is the planner's own."""

import dataclasses

import pytest

from keras_t5gemma2.planning.machines import MACHINES, TASKS, best, table
from keras_t5gemma2.planning.plan import plan

pytestmark = pytest.mark.once
SMALL = "t5gemma2_270m_270m"


@pytest.mark.parametrize(("task", "machine"), [("generate, 131K", "T4"), ("LoRA, 2K", "v5e-4")])
def test_the_largest_batch_fits_and_more_does_not(task, machine):
    batch, work = best(SMALL, task, machine)
    memory = 0.9 * MACHINES[machine].memory * 2**30
    assert work.batch_size == batch > 0
    assert plan(SMALL, work, text_only=True).fits(memory)
    larger = dataclasses.replace(work, batch_size=batch + max(work.mesh[0], batch // 16))
    assert not plan(SMALL, larger, text_only=True).fits(memory)


def test_what_does_not_fit_is_no_choice():
    assert best("t5gemma2_4b_4b", "full training, 2K", "v5e-1") == (0, None)


def test_a_card_without_bfloat16_computes_in_float16():
    assert best(SMALL, "generate, 8K", "T4").work.dtype == "float16"
    assert best(SMALL, "LoRA, 2K", "T4").work.dtype == "mixed_float16"


def test_what_one_device_cannot_hold_is_spread():
    """56 GiB over eight devices of 16, whole heads on each."""
    work = best("t5gemma2_4b_4b", "full training, 2K", "v5e-8").work
    assert work.mesh[0] * work.mesh[1] == 8 and 8 % work.mesh[1] == 0
    assert work.fsdp or work.mesh[1] > 1


def test_the_table_has_each_task_on_each_machine(monkeypatch):
    from keras_t5gemma2.planning import machines

    monkeypatch.setattr(machines, "best", lambda model, *_: machines.Choice(0, None))
    rows = list(table(["a", "b"]))
    assert len(rows) == 2 + 2 * len(TASKS) * len(MACHINES)
    assert rows[2] == "| a | generate, 8K | v5e-1 | does not fit | | | 0 |"


def test_what_is_longer_than_a_model_was_made_for_is_left_out(monkeypatch):
    from keras_t5gemma2.planning import machines

    monkeypatch.setattr(machines, "best", lambda model, *_: machines.Choice(0, None))
    rows = list(table(["t5gemma_9b_2b_ul2", "t5gemma2_4b_4b"]))
    assert not any("t5gemma_9b_2b_ul2" in row and "131K" in row for row in rows)
    assert any("t5gemma_9b_2b_ul2" in row and "8K" in row for row in rows)
    assert any("t5gemma2_4b_4b" in row and "131K" in row for row in rows)


def test_models_of_equal_sizes_have_one_name():
    from keras_t5gemma2.planning.weights import config_of, published_models

    names = published_models()
    assert len(names) == 3 + 8 and "t5gemma_9b_2b_ul2" in names
    assert len({config_of(name, text_only=True) for name in names}) == len(names)
