"""What goes with the active adapter of a task: its optimizer and its compiled functions."""

import keras
import numpy as np
import pytest
from tasks import ONE_LAYER, SMALL_ROWS, small_task
from tiny_models import tiny_backbone

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

pytestmark = pytest.mark.once


def generated(lm):
    return lm.generate(SMALL_ROWS["encoder_text"], max_new_tokens=6)


def randomize_adapters(lm, seed=0):
    """Adapters far from zero, so that each changes what is generated."""
    rng = np.random.default_rng(seed)
    for variable in lm.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))


def test_texts_of_merged_and_switched_adapters():
    """Each choice has a program of generation of its own, which is kept."""
    lm = small_task()
    lm.enable_lora(rank=3, alpha=6, target=["query", "value", "down"])
    base_text = generated(lm)
    randomize_adapters(lm)
    tuned_text = generated(lm)
    compiled = lm.generate_function
    lm.merge_adapter()
    assert generated(lm) == tuned_text != base_text
    lm.unmerge_adapter()
    assert lm.generate_function is compiled
    lm.set_adapter(None)
    assert generated(lm) == base_text
    lm.set_adapter("default")
    assert generated(lm) == tuned_text


def test_each_choice_of_adapters_has_the_programs_of_all_caches():
    """Of calls with and without the adapter, and with two caches, none reads the other's."""
    lm = small_task()
    lm.enable_lora(rank=2, target=["query", "down"])
    randomize_adapters(lm)
    texts = {}
    for adapter, *kinds in (
        (None, "projected"),
        ("default", "shared", "projected"),
        (None, "projected", "shared"),
        ("default", "projected", "shared"),
    ):
        lm.set_adapter(adapter)
        for kind in kinds:
            lm.cross_attention_cache = kind
            texts.setdefault(adapter, []).extend([generated(lm), streamed(lm)])
    for adapter, each in texts.items():
        assert all(text == each[0] for text in each), adapter
    assert texts["default"][0] != texts[None][0]


def streamed(lm):
    texts = [""] * len(SMALL_ROWS["encoder_text"])
    for row, piece in lm.stream(SMALL_ROWS["encoder_text"], max_new_tokens=6):
        texts[row] += piece
    return texts


def test_the_optimizer_holds_adapters_only():
    """Of a task that is compiled after its adapter came; Adam has two variables a weight."""
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(ONE_LAYER), small_task().preprocessor, compile=False)
    lm.enable_lora(rank=2, target=["gate"], dropout=0.3, use_dora=True)
    lm.compile(optimizer=keras.optimizers.Adam(0.05))
    first = lm.fit(SMALL_ROWS, epochs=3, verbose=0).history["loss"]
    assert first[-1] < first[0]
    assert len(lm.trainable_variables) == 6
    assert len(lm.optimizer.variables) == 2 + 2 * len(lm.trainable_variables)


def test_an_adapter_gets_an_optimizer_without_the_state_of_another():
    lm = small_task(learning_rate=0.25)
    lm.optimizer.build(lm.trainable_variables)
    seen = [lm.optimizer]
    for name in ("one", "two"):
        lm.enable_lora(rank=2, target=["query"], name=name)
        assert not lm.optimizer.built and float(lm.optimizer.learning_rate) == 0.25
        lm.optimizer.build(lm.trainable_variables)
        seen.append(lm.optimizer)
        lm.set_adapter(name)  # the same again
        assert lm.optimizer is seen[-1]
    assert len({id(optimizer) for optimizer in seen}) == 3


def test_a_choice_that_comes_back_has_its_compiled_functions():
    lm = small_task()
    lm.enable_lora(rank=2, target=["query"])
    lm.predict_function, lm.train_function = "of the adapter", "a step"
    lm.set_adapter(None)
    assert lm.predict_function is None and lm.train_function is None
    lm.set_adapter("default")
    assert lm.predict_function == "of the adapter" and lm.train_function is None
    lm.adapter_set.forget_programs()
    assert lm.predict_function is None
