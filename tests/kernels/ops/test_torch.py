"""Torch's products with matrices that lie column by column, and where matrices lie."""

import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from keras import ops
from repository import environment
from tolerances import TOLERANCE

from keras_t5gemma2 import kernels

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="operations of torch")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_trained_lies_row_by_row_on_every_device(device):
    import torch

    variable = types.SimpleNamespace(value=torch.empty((5, 3), device=device).t())
    kernels.lay_out(variable, for_steps=False)
    assert variable.value.is_contiguous()
    kernels.lay_out(variable, for_steps=True)
    assert variable.value.is_contiguous() == (device != "cpu")


def test_a_matrix_laid_out_for_steps_has_the_same_numbers(rng):
    matrix = rng.standard_normal((6, 4), "float32")
    variable = keras.Variable(matrix)
    for for_steps in (True, True, False):
        kernels.lay_out(variable, for_steps)
        assert variable.value.t().is_contiguous() == for_steps
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), matrix)


@pytest.mark.parametrize("rows", [(), (1,), (3, 1), (2, 4), (33,)], ids=str)
def test_a_product_is_row_by_row_wherever_its_matrix_lies(rng, rows):
    """So that what is done next with it takes no longer."""
    kernel = keras.Variable(rng.standard_normal((6, 4), "float32"))
    x = ops.convert_to_tensor(rng.standard_normal((*rows, 6), "float32"))
    want = ops.convert_to_numpy(x) @ ops.convert_to_numpy(kernel)
    kernels.lay_out(kernel, for_steps=True)
    got = kernels.product(x, kernel)
    assert got.is_contiguous() and tuple(got.shape) == (*rows, 4)
    np.testing.assert_allclose(ops.convert_to_numpy(got), want, **TOLERANCE["float32"])


def test_pieces_are_of_the_size_and_the_last_is_shorter(rng):
    sizes = []
    x = ops.convert_to_tensor(rng.standard_normal((2, 10, 3), "float32"))
    got = kernels.by_pieces(lambda piece: sizes.append(piece.shape[1]) or piece + 1, x, 4)
    assert sizes == [4, 4, 2]
    np.testing.assert_array_equal(got, x + 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_many_rows_of_half_precision_are_multiplied_in_float32(dtype, monkeypatch):
    """Where the CPU has no quick product of them, which takes far longer than float32's."""
    import torch

    from keras_t5gemma2.kernels.ops import torch as module

    monkeypatch.setattr(module, "_SLOW", (torch.float16, torch.bfloat16))
    x = torch.randn(64, 40).to(getattr(torch, dtype))
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(40, 24)), dtype=dtype)
    found = module.product(x, kernel)
    want = (x.float() @ kernel.value.float()).to(x.dtype)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, want, rtol=0, atol=0)
    monkeypatch.setattr(module, "_SLOW", ())
    torch.testing.assert_close(module.product(x, kernel), want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_half_precision_keep_no_float32(dtype, monkeypatch):
    import torch

    from keras_t5gemma2.kernels.ops import torch as module

    monkeypatch.setattr(module, "_SLOW", (torch.float16, torch.bfloat16))
    x = torch.randn(2, 33, 40).to(getattr(torch, dtype)).requires_grad_()
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(40, 24)), dtype=dtype)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.dtype) or t, lambda t: t
    ):
        found = module.product(x, kernel)
    upstream = torch.randn(found.shape).to(found.dtype)
    gradients = torch.autograd.grad(found, (x, kernel.value), upstream)
    assert set(saved) == {x.dtype}
    wide = x.detach().float().requires_grad_(), kernel.value.detach().float().requires_grad_()
    want = torch.autograd.grad(wide[0] @ wide[1], wide, upstream.float())
    for mine, its in zip(gradients, want, strict=True):
        assert mine.dtype == x.dtype
        torch.testing.assert_close(mine, its.to(x.dtype))


@pytest.mark.parametrize("rows", [4, 9, 32])
def test_many_rows_times_codes_are_as_exact_as_few(rows):
    import torch

    from keras_t5gemma2.kernels.ops import torch as module

    codes = torch.randint(-127, 128, (600, 64), dtype=torch.int8)
    x = torch.randn(rows, 64).bfloat16()
    found = module.times_codes(x, codes)
    want = (x.double() @ codes.double().t()).to(x.dtype)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, want)


_THREADS = """
import threading
import keras, torch
from keras_t5gemma2.kernels.ops import torch as ops

variables = [keras.Variable(torch.rand(64, 64)) for _ in range(4)]
assert all(variable.value.requires_grad for variable in variables)

def run(number):
    for i in range(200):
        for variable in variables:
            ops.lay_out(variable, for_steps=(i + number) % 2 == 0)

threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
print("all" if not any(thread.is_alive() for thread in threads) else "some wait", flush=True)
import os
os._exit(0)
"""


@pytest.mark.slow
def test_threads_that_lay_out_the_same_matrices_do_not_wait_for_each_other():
    """In a process of its own, as what waits so is never woken."""
    done = subprocess.run(
        [sys.executable, "-c", _THREADS],
        env=environment(KERAS_BACKEND="torch"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "all", done.stdout + done.stderr[-2000:]
