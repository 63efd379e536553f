"""What processes that train one model have to know of each other."""

import base64

import keras
import numpy as np
import pytest
from keras import ops

from keras_t5gemma2.kernels.runtime import processes

IS_TORCH = keras.config.backend() == "torch"
on_torch = pytest.mark.skipif(not IS_TORCH, reason="of torch's process group")


def test_one_process_is_alone():
    assert (processes.count(), processes.index()) == (1, 0)
    assert not processes.is_joint()
    processes.wait("here")
    tensor = ops.convert_to_tensor(np.arange(3.0))
    assert processes.is_whole(tensor)
    np.testing.assert_array_equal(processes.whole(tensor), [0, 1, 2])
    found = processes.everywhere([4, 5])
    assert found.dtype == "int32" and found.tolist() == [[4, 5]]


class Group:
    """A process group of three, of which this is the last; the others give one less each."""

    waited = 0

    def get_world_size(self):
        return 3

    def get_rank(self):
        return 2

    def barrier(self):
        self.waited += 1

    def all_gather_object(self, found, given):
        found[:] = (
            ["first", "second", given] if isinstance(given, list) else [given - 2, given - 1, given]
        )


@pytest.fixture
def group(monkeypatch):
    found = Group()
    monkeypatch.setattr(processes, "_group", lambda: found)
    return found


@on_torch
def test_processes_of_torch_have_all_of_a_model_each(group):
    assert (processes.count(), processes.index()) == (3, 2)
    assert not processes.is_joint() and processes.is_whole(ops.ones(2))
    processes.wait("here")
    assert group.waited == 1
    assert processes.everywhere([4, 5]).tolist() == [[2, 3], [3, 4], [4, 5]]


@on_torch
def test_random_numbers_go_on_where_they_were(group):
    import torch

    states = processes.random_states()
    assert states[:2] == ["first", "second"] and all(type(s) is str for s in states[2])
    wanted = torch.rand(3).tolist()
    others = [base64.b64encode(b"other").decode()]
    processes.set_random_states([others, others, states[2]])
    assert torch.rand(3).tolist() == wanted
    processes.set_random_states([others, others, states[2], others])  # of more processes
    assert torch.rand(3).tolist() == wanted
    processes.set_random_states(None)


@pytest.mark.skipif(IS_TORCH, reason="there are states")
def test_elsewhere_nothing_draws_beside_the_variables():
    assert processes.random_states() is None
    processes.set_random_states(None)
    processes.set_random_states([["x"]])
