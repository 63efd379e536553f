"""Gaps in texts: properties of the function that draws them."""

import numpy as np
import pytest

from keras_t5gemma2.preprocessing.denoising import (
    DENOISERS,
    Denoiser,
    denoise,
    fill,
    split_at_sentinels,
)

SENTINELS = np.arange(899, 799, -1)
LIMITS = (None, None), (37, None), (None, 23), (37, 23), (2, 3)


def noise_of(denoised):
    return (denoised.spans[:, 1] - denoised.spans[:, 0]).sum()


def test_the_paper_s_mixture():
    weights = np.array([denoiser.weight for denoiser in DENOISERS])
    rates = np.array([denoiser.rate for denoiser in DENOISERS])
    # What the five rates and weights of the paper come to: half of the texts are prefix-LM.
    assert (weights * rates).sum() / weights.sum() == pytest.approx(0.5375)
    assert weights[-1] / weights.sum() == 0.5 and DENOISERS[-1].mean_span is None


@pytest.mark.once
@pytest.mark.parametrize("length", [1, 2, 5, 64, 301])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("denoiser", [*DENOISERS, Denoiser(0.9, 1.0)])
def test_properties_of_every_text(denoiser, limits, length):
    """Spans in order and apart, sentinels in order, and nothing lost, within the limits."""
    ids = np.random.default_rng(length).integers(0, 100, size=length)
    for seed in range(25):
        found = denoise(ids, SENTINELS[:12], seed, [denoiser], *limits)
        inputs, targets, spans = found
        assert (spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] > spans[:-1, 1]).all()
        count = len(spans)
        assert 1 <= count <= 12
        for stream in (inputs, targets):
            assert stream[stream >= 100].tolist() == SENTINELS[:count].tolist()
        assert targets[0] == SENTINELS[0]
        for stream, limit in zip((inputs, targets), limits, strict=True):
            assert limit is None or len(stream) <= limit
        text = fill(inputs, targets, SENTINELS)
        first = spans[0, 0] - np.flatnonzero(inputs == SENTINELS[0])[0]
        np.testing.assert_array_equal(text, ids[first : first + len(text)])
        if limits == (None, None) and count < 12:
            assert len(text) == length
        if denoiser.mean_span is None:
            assert inputs[-1] == SENTINELS[0] and count == 1


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("denoiser", DENOISERS)
def test_rate_and_mean_span_converge(denoiser):
    # Gaps of 32 tokens on 15 % of a text: one to three of them in 403 tokens.
    found = [denoise(np.arange(403), 500 + SENTINELS, seed, [denoiser]) for seed in range(1500)]
    noise = np.array([noise_of(one) for one in found])
    count = np.array([len(one.spans) for one in found])
    assert noise.mean() / 403 == pytest.approx(denoiser.rate, rel=0.002)
    mean_span = denoiser.mean_span or 0.75 * 403
    assert noise.sum() / count.sum() == pytest.approx(mean_span, rel=0.02)
    if mean_span < 20:
        # Gaps are everywhere alike: no token is in them more often than another. (Few long ones
        # are rarer at the ends of a text.)
        places = np.zeros(403)
        for one in found:
            for start, stop in one.spans:
                places[start:stop] += 1 / len(found)
        thirds = places.reshape(13, 31).mean(axis=1)
        np.testing.assert_allclose(thirds[1:-1], denoiser.rate, rtol=0.25)


@pytest.mark.once
def test_denoisers_come_by_weight():
    found = [denoise(np.arange(403), 500 + SENTINELS, seed) for seed in range(3000)]
    is_prefix = [len(one.spans) == 1 and noise_of(one) in (302, 303) for one in found]
    assert np.mean(is_prefix) == pytest.approx(0.5, abs=0.03)
    assert np.mean([noise_of(one) for one in found]) / 403 == pytest.approx(0.5375, abs=0.02)


def test_same_seed_same_gaps():
    def gaps(seed):
        return denoise(np.arange(403), 500 + SENTINELS, seed, DENOISERS[:1]).targets.tolist()

    assert gaps(7) == gaps(7) and gaps((7, 1)) == gaps((7, 1))
    assert len({str(gaps(seed)) for seed in range(20)}) == 20


@pytest.mark.once
def test_of_a_long_text_every_part_comes():
    starts = []
    for seed in range(300):
        found = denoise(np.arange(100), 500 + SENTINELS, seed, [Denoiser(0.5, 3.0)], 12, 12)
        starts.append(fill(*found[:2], 500 + SENTINELS)[0])
    assert min(starts) < 5 and max(starts) > 75 and 35 < np.mean(starts) < 50


def test_gaps_that_a_model_did_not_fill_stay():
    assert fill([5, 99, 7, 98], [1, 98, 8, 98, 9], [99, 98]).tolist() == [5, 99, 7, 8]
    assert split_at_sentinels([1, 98, 8, 98, 9, 99], [99, 98]) == {98: [8], 99: []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": []}, r"one row of tokens\. Received: shape \(0,\)"),
        ({"ids": [1, 2, 898]}, "id 898 at token 2"),
        ({"sentinel_ids": []}, "Received: none"),
        ({"max_inputs": 0}, "max_inputs=0"),
        ({"max_targets": 1}, "max_targets=1"),
        ({"denoisers": [Denoiser(1.0, 3.0)]}, r"rate=1\.0, mean_span=3\.0"),
        ({"denoisers": [Denoiser(0.5, 0.5)]}, r"mean_span=0\.5"),
        ({"denoisers": []}, "one at least. Received: none"),
    ],
)
def test_what_gets_no_gaps_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        denoise(**{"ids": [1, 2, 3], "sentinel_ids": SENTINELS, "seed": 0, **changes})
