"""The callback of adaptive ranks: what it needs, what it leaves, and runs that are taken up."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import AdaptiveRank, TrainingCheckpoint


def adapted(rank=4, **options):
    keras.utils.set_random_seed(0)
    lm = small_task()
    lm.compile(keras.optimizers.Adam(0.02))
    lm.enable_lora(rank=rank, target=["query", "value", "down"], **options)
    return lm


def fitted(lm, ranks, *callbacks, epochs=8):
    options = dict(batch_size=2, epochs=epochs, shuffle=False, verbose=0)
    return lm.fit(SMALL_ROWS, callbacks=[ranks, *callbacks], **options).history["loss"]


@pytest.mark.once
def test_ranks_add_up_to_the_target_and_stay_when_training_goes_on():
    lm = adapted(lora_plus=2)
    ranks = AdaptiveRank(1, 4, warmup=1, final=2, every=2)
    fitted(lm, ranks)
    assert sum(ranks.ranks.values()) == ranks.budget == 6
    is_kept = {path: mask.tolist() for path, mask in ranks.masks.items()}
    lm.fit(SMALL_ROWS, batch_size=2, epochs=2, verbose=0)
    for path, adapter in lm.adapter_set.trained_adapters().items():
        assert (ops.convert_to_numpy(adapter.e) != 0).tolist() == is_kept[path]
    assert all(v.regularizer is None for v in lm.trainable_variables)
    names = [variable.path for variable in lm.optimizer.variables]
    assert not any("rank_step" in name or "mask_of" in name for name in names)


@pytest.mark.once
def test_gradients_that_are_added_up_count_as_one_step():
    """Two halves of a batch, or the whole of it: importance and ranks are the same."""
    found = []
    for count in (1, 2):
        lm = adapted()
        lm.compile(
            keras.optimizers.SGD(0.5, gradient_accumulation_steps=count if count > 1 else None)
        )
        ranks = AdaptiveRank(1, 4, final=1)
        ranks.prepare(lm, 4)
        rng = np.random.default_rng(0)
        for variable in lm.trainable_variables:
            variable.assign(0.1 * rng.normal(size=variable.shape))
        rows = {key: [texts[0]] * 2 for key, texts in SMALL_ROWS.items()}
        options = dict(batch_size=2 // count, epochs=4, shuffle=False, verbose=0)
        lm.fit(rows, callbacks=[ranks], **options)
        found.append((ranks.ranks, [ops.convert_to_numpy(v) for v in lm.trainable_variables]))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.once
def test_a_run_that_was_interrupted_gives_the_same_ranks(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    whole = AdaptiveRank(1, warmup=1, final=2)
    losses = fitted(adapted(), whole)
    with pytest.raises(KeyboardInterrupt):
        fitted(adapted(), AdaptiveRank(1, warmup=1, final=2), TrainingCheckpoint(tmp_path), Stop())
    again = AdaptiveRank(1, warmup=1, final=2)
    assert fitted(adapted(), again, TrainingCheckpoint(tmp_path)) == losses[4:]
    assert again.ranks == whole.ranks


@pytest.mark.once
def test_adapters_of_triplets_are_written_for_peft_in_both_forms(tmp_path):
    lm = adapted()
    fitted(lm, AdaptiveRank(1, 4, final=2))
    want = lm.score(SMALL_ROWS)
    lm.save_peft_adapter(tmp_path / "lora")
    lm.save_peft_adapter(tmp_path / "adalora", format="adalora")
    kinds = {}
    for name in ("lora", "adalora"):
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        kinds[name] = config["peft_type"]
        lm.load_peft_adapter(tmp_path / name, name=name)
        np.testing.assert_allclose(lm.score(SMALL_ROWS), want, rtol=1e-5)
    assert kinds == {"lora": "LORA", "adalora": "ADALORA"}


@pytest.mark.once
def test_what_it_cannot_work_on_is_refused():
    cases = (
        (lambda: small_task(), AdaptiveRank(1), "must have an adapter"),
        (lambda: adapted(rank_pattern={"query": 2}), AdaptiveRank(1), "with a pattern"),
        (adapted, AdaptiveRank(1, 6), "init_rank=6, and an adapter of rank 4"),
        (adapted, AdaptiveRank(5), "target_rank=5, and an adapter of rank 4"),
        (adapted, AdaptiveRank(1, warmup=5, final=3), "warmup=5, final=3, and 8 steps"),
        (lambda: adapted(use_dora=True), AdaptiveRank(1), "must be plain LoRA"),
    )
    for make, ranks, message in cases:
        with pytest.raises(ValueError, match=message):
            fitted(make(), ranks)
    trained = adapted()
    trained.fit(SMALL_ROWS, batch_size=2, verbose=0)
    with pytest.raises(ValueError, match="must not have been trained"):
        fitted(trained, AdaptiveRank(1))
    with pytest.raises(ValueError, match="`total_steps`|total_steps=None"):
        AdaptiveRank(1).prepare(adapted())


@pytest.mark.once
@pytest.mark.parametrize(
    "given", [{"target_rank": 0}, {"every": 0}, {"warmup": -1}, {"beta1": 1}, {"orthogonality": -1}]
)
def test_numbers_out_of_range_are_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"`{name}` must"):
        AdaptiveRank(**{"target_rank": 2, **given})
