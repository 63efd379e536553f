"""Torch's gradients, and which programs it compiles."""

import keras
import pytest
from runtime_checks import check_differentiable, check_map_blocks, check_rematerialized, task

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="imports torch")
if keras.config.backend() == "torch":
    import torch

    from keras_t5gemma2.kernels.runtime import torch as runtime
    from keras_t5gemma2.kernels.runtime import torch_step


def test_gradients_and_loops():
    check_differentiable(runtime)
    check_rematerialized(runtime)
    check_map_blocks(runtime)


def test_a_rematerialized_function_runs_twice():
    runs = []

    def function(x):
        runs.append(1)
        return x * x, None

    x = torch.tensor([3.0], requires_grad=True)
    output, _ = runtime.rematerialized(function)(x)
    assert len(runs) == 1
    output.sum().backward()
    assert len(runs) == 2 and x.grad.item() == 6.0


def test_a_program_keeps_no_gradient():
    x = torch.ones(2, requires_grad=True)
    found = runtime.compiled(lambda x: 2 * x, task())(x)
    assert not found.requires_grad and found.tolist() == [2.0, 2.0]
    assert not runtime.compiles(task()) and not runtime.is_traced(x)


def test_a_step_is_compiled_where_the_task_says_so(monkeypatch):
    monkeypatch.setattr(torch_step, "compiled_step", lambda function: ("compiled", function))
    assert runtime.compiled_step(len, task()) == ("compiled", len)
    for attributes in ({"run_eagerly": True}, {"jit_compile": False}):
        assert runtime.compiled_step(len, task(**attributes)) is len
