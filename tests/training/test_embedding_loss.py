"""The loss of vectors: each part equal to a few lines of numpy, and what its settings change."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import EmbeddingLoss
from keras_t5gemma2.training.embedding_loss import distillation, is_other, spread_out

NEAR = {"rtol": 1e-5, "atol": 1e-6}
ROWS, WIDTH = 5, 12
# The query of rows 0 and 3 is the same text, and so is the document of rows 1 and 2.
TEXTS = np.array([[0, 1, 2], [3, 4, 5], [6, 4, 7], [0, 8, 9], [10, 11, 12]])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def contrastive_by_numpy(q, p, n, temperature, hardness):
    total = 0.0
    for i in range(ROWS):
        below = np.exp(q[i] @ p[i] / temperature)
        if n is not None:
            hard = q[i] @ n[i]
            below += np.exp(hardness * hard) * np.exp(hard / temperature)
        for j in range(ROWS):
            if TEXTS[i, 0] != TEXTS[j, 0] and TEXTS[i, 1] != TEXTS[j, 1]:
                below += np.exp(q[i] @ p[j] / temperature)
        total -= np.log(np.exp(q[i] @ p[i] / temperature) / below)
    return total / ROWS


def spread_by_numpy(x):
    pairs = [(x[i] @ x[j]) ** 2 for i in range(ROWS) for j in range(ROWS) if i != j]
    return np.mean(pairs)


def by_numpy(parts, lengths, temperature, hardness, spread, teacher=None, weight=1.0):
    total = 0.0
    for length in lengths:
        q, p, *n = (unit(part[:, :length]) for part in parts)
        total += contrastive_by_numpy(q, p, n[0] if n else None, temperature, hardness)
        total += spread * (spread_by_numpy(q) + spread_by_numpy(p))
    for part, target in zip(parts, () if teacher is None else teacher, strict=teacher is not None):
        total += weight * np.mean(np.sum((unit(part) - unit(target)) ** 2, axis=-1))
    return total


def batch(parts, teacher=None):
    k = len(parts)
    y = {"texts": np.repeat(TEXTS[:, :k], k, axis=0)}
    if teacher is not None:
        y["teacher"] = np.stack(teacher, axis=1).reshape(-1, WIDTH)
    return y, np.stack(parts, axis=1).reshape(-1, WIDTH)


@pytest.fixture
def parts(rng):
    return list(rng.standard_normal((3, ROWS, WIDTH), "float32"))


@pytest.mark.once
@pytest.mark.parametrize("k", [2, 3])
def test_the_whole_loss(k, parts, rng):
    teacher = list(rng.standard_normal((k, ROWS, WIDTH), "float32"))
    loss = EmbeddingLoss(0.3, 4.0, dimensions=(12, 5), spread_out=0.7, distillation=0.4)
    found, _ = loss(*batch(parts[:k], teacher))
    want = by_numpy(parts[:k], (12, 5), 0.3, 4.0, 0.7, teacher, 0.4)
    np.testing.assert_allclose(float(found), want, **NEAR)


def test_its_parts(parts, rng):
    q, p, n = map(unit, parts)
    found, _ = EmbeddingLoss(0.2).contrastive(q, p, is_other(ops.convert_to_tensor(TEXTS)), n)
    np.testing.assert_allclose(float(found), contrastive_by_numpy(q, p, n, 0.2, 5.0), **NEAR)
    found = spread_out(ops.convert_to_tensor(q))
    np.testing.assert_allclose(float(found), spread_by_numpy(q), **NEAR)
    x, teacher = (ops.convert_to_tensor(np.stack(parts[i : i + 2], 1)) for i in (0, 1))
    squares = (np.sum((unit(a) - unit(b)) ** 2, -1) for a, b in itertools.pairwise(parts))
    want = sum(map(np.mean, squares))
    np.testing.assert_allclose(float(distillation(x, teacher)), want, **NEAR)


@pytest.mark.once
def test_accuracy_is_the_part_of_queries_nearest_to_their_own_document():
    q = np.eye(ROWS, WIDTH, dtype="float32")
    _, right = EmbeddingLoss()(*batch([q, q]))
    assert float(right) == 1
    wrong = q[[4, 1, 2, 3, 0]]  # of rows 0 and 4, which share no text
    _, right = EmbeddingLoss()(*batch([q, wrong]))
    np.testing.assert_allclose(float(right), 0.6, **NEAR)


@pytest.mark.once
def test_no_gradient_goes_through_the_weight_of_a_hard_negative(parts):
    """By differences: the loss with the weight held still has the gradient that torch finds."""
    torch = pytest.importorskip("torch")
    q, p, n = (torch.tensor(unit(part), dtype=torch.float32) for part in parts)
    n.requires_grad_(True)
    others = is_other(ops.convert_to_tensor(TEXTS))
    loss, _ = EmbeddingLoss(0.5, 5.0).contrastive(q, p, others, n)
    loss.backward()
    x = n.detach().clone().requires_grad_(True)
    weight = torch.exp(5.0 * (q * n).sum(-1)).detach()
    seen = torch.tensor(ops.convert_to_numpy(others))
    below = (torch.exp(q @ p.T / 0.5) * seen).sum(1) + torch.exp((q * p).sum(-1) / 0.5)
    below = below + weight * torch.exp((q * x).sum(-1) / 0.5)
    (torch.log(below) - (q * p).sum(-1) / 0.5).mean().backward()
    np.testing.assert_allclose(n.grad.numpy(), x.grad.numpy(), **NEAR)


@pytest.mark.once
def test_lengths_and_config():
    assert EmbeddingLoss().lengths(768) == (768, 512, 256, 128)
    assert EmbeddingLoss().lengths(64) == (64,)
    assert EmbeddingLoss(dimensions=None).lengths(640) == (640,)
    loss = EmbeddingLoss(0.1, 1.0, (8, 4), 0.5, 0.25)
    assert EmbeddingLoss.from_config(loss.get_config()).get_config() == loss.get_config()
    with pytest.raises(ValueError, match="`dimensions` must be .* from 1 to 4.*dimensions=8"):
        loss.lengths(4)


@pytest.mark.once
def test_what_is_not_possible(parts, rng):
    for name, value in {"temperature": 0, "hardness": -1, "spread_out": "1"}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be a number .*{name}="):
            EmbeddingLoss(**{name: value})
    y, vectors = batch(parts)
    y["teacher"] = rng.standard_normal((len(vectors), WIDTH + 1), "float32")
    with pytest.raises(ValueError, match="teacher's vectors must .* 13 of the teacher and 12"):
        EmbeddingLoss()(y, vectors)
