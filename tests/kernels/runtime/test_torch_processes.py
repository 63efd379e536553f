"""Several processes of torch with a part of each batch each."""

import types
from typing import NamedTuple

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="imports torch")
if keras.config.backend() == "torch":
    import torch
    import torch.distributed as group

    from keras_t5gemma2.kernels.runtime import torch_processes


class Sums(NamedTuple):
    loss: object
    count: object


class Task(keras.layers.Dense if keras.config.backend() == "torch" else object):
    """A task of one matrix."""

    def __init__(self):
        super().__init__(2, use_bias=False)
        self.build((None, 3))


@pytest.fixture
def two(monkeypatch):
    """Two processes, of which each gives what the other does; `calls` has what was exchanged."""
    calls = types.SimpleNamespace(reduced=0, broadcast=[])

    def all_reduce(x):
        calls.reduced += 1
        x *= 2

    monkeypatch.setattr(torch_processes, "_count", lambda: 2)
    monkeypatch.setattr(group, "all_reduce", all_reduce)
    monkeypatch.setattr(group, "broadcast", lambda x, rank: calls.broadcast.append((x, rank)))
    return calls


def test_alone_nothing_is_exchanged():
    x = torch.tensor(3.0)
    assert torch_processes.summed_over_replicas(x) is x
    sums = Sums(x, x)
    assert torch_processes.sums_of_metrics(sums) is sums


def test_sums_are_of_all_processes(two):
    """Those of gradients are then averaged; the tensor itself stays."""
    x = torch.tensor(3.0, requires_grad=True)
    twice = 2 * x
    found = torch_processes.summed_over_replicas(twice)
    assert found.item() == twice.item() == 6.0 and not found.requires_grad
    sums = torch_processes.sums_of_metrics(
        Sums(torch.tensor(3.0), torch.tensor(4, dtype=torch.int32))
    )
    assert isinstance(sums, Sums) and [x.item() for x in sums] == [6.0, 8.0]
    assert two.reduced == 2  # all sums of metrics at once


def test_weights_are_those_of_the_first_and_gradients_are_averaged_once(two):
    task = Task()
    parameter = task.kernel.value
    for _ in range(2):  # prepared again, hooks are not there twice
        torch_processes.prepare_training(task)
    assert [rank for _, rank in two.broadcast] == [0, 0]
    assert two.broadcast[0][0].data_ptr() == parameter.data_ptr()
    (parameter * 5).sum().backward()
    assert two.reduced == 1 and parameter.grad.unique().tolist() == [5.0]
    task.trainable = False
    torch_processes.prepare_training(task)
    assert len(two.broadcast) == 2


def test_parameters_are_looked_at_once(monkeypatch):
    task, looked = Task(), []
    monkeypatch.setattr(torch_processes.compat, "all_layers", lambda task: looked.append(1) or [])
    torch_processes.check_parameters(task)
    torch_processes.check_parameters(task)
    assert len(looked) == 1
    torch_processes.prepare_training(task)
    assert len(looked) == 2
