"""Adapters of a task: what trains, what computes, what is chosen, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task
from tiny_models import CONFIG as VISION_CONFIG
from tiny_models import tiny_backbone
from tolerances import TOLERANCE

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.lora import targets


def logits(lm):
    return lm.predict(SMALL_ROWS, verbose=0)


def generated(lm):
    return lm.generate(SMALL_ROWS["encoder_text"], max_new_tokens=6)


def values(variables):
    return {variable.path: ops.convert_to_numpy(variable) for variable in variables}


def randomize_adapters(lm, seed=0):
    """Adapters far from zero, so that each changes what is generated."""
    rng = np.random.default_rng(seed)
    for variable in lm.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))


@pytest.mark.once
@pytest.mark.compiled
def test_trained_switched_merged_and_unmerged():
    """One story, since each choice of adapters compiles its own functions."""
    lm = small_task()
    lm.optimizer.build(lm.trainable_variables)  # as `fit` leaves it: for all weights,
    lm.make_train_function()  # with a step for all weights
    lm.enable_lora(rank=3, alpha=6, target=["query", "value", "down"])
    assert lm.train_function is None
    base, base_text, frozen = logits(lm), generated(lm), values(lm.non_trainable_variables)

    losses = lm.fit(SMALL_ROWS, epochs=4, verbose=0).history["loss"]
    assert losses[3] < losses[2] < losses[1] < losses[0]
    after = values(lm.variables)
    changed = {path for path in after if path not in frozen or (after[path] != frozen[path]).any()}
    assert changed == {variable.path for variable in lm.trainable_variables}
    assert len(changed) == 2 * 3 * 2
    # Of SGD: the count of steps and the learning rate, and none of the frozen weights' momenta.
    assert len(lm.optimizer.variables) == 2
    assert lm.optimizer.iterations == 4

    randomize_adapters(lm)
    tuned, tuned_text = logits(lm), generated(lm)
    assert np.abs(tuned - base).max() > 0.1 and tuned_text != base_text
    compiled = lm.generate_function
    lm.merge_adapter()
    np.testing.assert_allclose(logits(lm), tuned, **TOLERANCE["float32"])
    lm.unmerge_adapter()
    np.testing.assert_allclose(logits(lm), tuned, **TOLERANCE["float32"])
    assert lm.generate_function is compiled
    for path, value in values(lm.variables).items():
        if path in frozen:
            np.testing.assert_allclose(value, frozen[path], **TOLERANCE["float32"])

    lm.set_adapter(None)
    np.testing.assert_allclose(logits(lm), base, **TOLERANCE["float32"])
    lm.set_adapter("default")
    assert generated(lm) == tuned_text


@pytest.mark.once
def test_several_adapters_and_their_sum():
    lm = small_task()
    lm.enable_lora(rank=2, target=["query"], name="one")
    randomize_adapters(lm, 1)
    one = logits(lm)
    lm.enable_lora(rank=3, target="decoder/.*/(query|up)", use_dora=True, name="two")
    assert lm.active_adapter == "two" and list(lm.adapters) == ["one", "two"]
    assert {path.split("/")[-1] for path in values(lm.trainable_variables)} == {
        *("two_lora_a", "two_lora_b", "two_magnitude")
    }
    randomize_adapters(lm, 2)
    lm.set_adapter("one")
    np.testing.assert_allclose(logits(lm), one, **TOLERANCE["float32"])
    lm.set_adapter({"one": 0.5, "two": -1.0})
    assert lm.active_adapter == {"one": 0.5, "two": -1.0} and not lm.trainable_variables
    mixed = logits(lm)
    lm.merge_adapter()
    np.testing.assert_allclose(logits(lm), mixed, **TOLERANCE["float32"])
    assert np.abs(mixed - one).max() > 0.1


@pytest.mark.once
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_the_number_of_trainable_parameters_is_the_formulas(use_dora):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(VISION_CONFIG))
    lm.enable_lora(rank=5, use_dora=use_dora)
    expected = 0
    for stack in (VISION_CONFIG.encoder, VISION_CONFIG.decoder):
        width, mlp = stack.hidden_dim, stack.mlp_dim
        for layer in stack.layers:
            query, key = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
            sizes = [(width, query), (width, key), (width, key), (query, width)]
            for inputs, outputs in [*sizes, (width, mlp), (width, mlp), (mlp, width)]:
                expected += 5 * (inputs + outputs) + (outputs if use_dora else 0)
    assert sum(int(np.prod(v.shape)) for v in lm.trainable_variables) == expected
    paths = {variable.path.rpartition("/")[0] for variable in lm.trainable_variables}
    assert paths == set(targets.dense_layers(lm.backbone)) and len(paths) == 5 * 7
    assert not any(path.startswith(("vision", "embedder")) for path in paths)
    frozen = {v.path for v in lm.weights} - {v.path for v in lm.trainable_variables}
    assert {"embedder/table/embeddings", "embedder/end_of_image"} < frozen


@pytest.mark.once
def test_what_is_refused():
    lm = small_task()
    with pytest.raises(ValueError, match="no adapter 'default'. The adapters are: none"):
        lm.set_adapter("default")
    with pytest.raises(ValueError, match="nothing to unmerge"):
        lm.unmerge_adapter()
    lm.enable_lora(rank=2)
    with pytest.raises(ValueError, match="an adapter 'default' already"):
        lm.enable_lora(rank=2)
    with pytest.raises(ValueError, match="name='a/b'"):
        lm.enable_lora(rank=2, name="a/b")
    with pytest.raises(ValueError, match="no adapter 'other'. The adapters are: 'default'"):
        lm.set_adapter({"default": 1.0, "other": 0.5})
    lm.set_adapter(None)
    with pytest.raises(ValueError, match="an active adapter to merge"):
        lm.merge_adapter()
    with pytest.raises(ValueError, match="active_adapter=None. Call `set_adapter` .* of 'default'"):
        lm.fit(SMALL_ROWS, verbose=0)
    lm.set_adapter("default")
    lm.merge_adapter()
    for refused in (
        lambda: lm.fit(SMALL_ROWS, verbose=0),
        lambda: lm.enable_lora(rank=2, name="more"),
        lambda: lm.set_adapter(None),
        lambda: lm.remove_adapter("default"),
        lm.merge_adapter,
    ):
        with pytest.raises(ValueError, match="unmerge_adapter"):
            refused()


@pytest.mark.once
def test_the_last_removed_adapter_leaves_the_task_as_it_was():
    lm = small_task()
    lm.backbone.embedder.trainable = False
    before = [variable.path for variable in lm.trainable_variables]
    variables = len(lm.variables)
    lm.enable_lora(rank=2, dropout=0.1, name="one")
    lm.enable_lora(rank=2, name="two")
    lm.fit(SMALL_ROWS, verbose=0)
    lm.remove_adapter("two")
    assert lm.active_adapter is None and list(lm.adapters) == ["one"]
    lm.remove_adapter("one")
    assert [variable.path for variable in lm.trainable_variables] == before
    assert lm.adapters == {} and len(lm.variables) == variables
    lm.fit(SMALL_ROWS, verbose=0)


def test_adapters_are_parameters_of_the_task_on_torch():
    if keras.backend.backend() != "torch":
        return
    lm = small_task()
    lm.enable_lora(rank=2, target=["key"])
    learned = [p for p in lm.parameters() if p.requires_grad]
    assert {id(p) for p in learned} == {id(v.value) for v in lm.trainable_variables}
    assert len(list(lm.parameters())) == len(lm.variables)
