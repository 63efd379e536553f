"""A step of decoding as one program: recorded once for each set of shapes."""

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="imports torch")
if keras.config.backend() == "torch":
    import torch

    from keras_t5gemma2.kernels.runtime import torch_step


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch was asked to compile; they are not compiled."""
    found = []
    monkeypatch.setattr(torch, "compile", lambda graph, **_: found.append(graph) or graph)
    return found


def test_a_step_takes_and_gives_nested_tensors(graphs):
    calls = []

    def function(state, more):
        calls.append(1)
        return {"sum": state[0] + more["x"], "all": (state[1] * 2, more["x"])}

    step = torch_step.compiled_step(function)
    for value in (1.0, 2.0):
        x = torch.full((2,), value)
        found = step((x, 3 * x), {"x": x})
        assert found["sum"].tolist() == [2 * value] * 2
        assert found["all"][0].tolist() == [6 * value] * 2
        assert isinstance(found["all"], tuple)
    assert len(graphs) == len(calls) == 1
    assert any("add" in str(node.target) for node in graphs[0].graph.nodes)


def test_other_shapes_dtypes_and_strides_are_other_programs(graphs):
    step = torch_step.compiled_step(lambda x: x + 1)
    for x in (torch.ones(2, 3), torch.ones(3, 2), torch.ones(2, 3).double(), torch.ones(3, 2).T):
        for _ in range(2):
            assert (step(x) == 2).all()
    assert len(graphs) == 4


def test_the_oldest_program_goes_where_there_are_too_many(graphs, monkeypatch):
    monkeypatch.setattr(torch_step, "_MOST_PROGRAMS", 2)
    step = torch_step.compiled_step(lambda x: x + 1)
    for length in (1, 2, 3, 3, 2, 1):
        assert step(torch.ones(length)).shape == (length,)
    assert len(graphs) == 4  # 1, 2, 3, and 1 again


def test_a_program_writes_into_what_it_gets_and_reads_weights_as_they_are(graphs):
    weight = torch.nn.Parameter(torch.tensor([2.0]))

    def function(cache, x):
        cache[1] = x[0]
        return cache * weight

    step = torch_step.compiled_step(function)
    with torch.no_grad():
        for value in (3.0, 5.0):
            weight.fill_(value)
            cache = torch.zeros(3)
            assert step(cache, torch.tensor([value])).tolist() == [0, value * value, 0]
            assert cache.tolist() == [0, value, 0]
