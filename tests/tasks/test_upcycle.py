"""A mixture of experts made of a trained model, as a user has it."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks_t5gemma1 import t5gemma1_task

import keras_t5gemma2
from keras_t5gemma2 import T5Gemma2Seq2SeqLM, upcycle
from keras_t5gemma2.planning.weights import weights_of
from keras_t5gemma2.planning.work import Work

QUESTIONS = ["Spell 4268 in German.", "Write 2026-12-17 in Hindi."]
ROWS = {"encoder_text": QUESTIONS, "decoder_text": ["siebzehn", "drei"]}


@pytest.fixture(scope="module")
def lm():
    found = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
    found.compile(sampler="greedy")
    return found


def routers(lm):
    stacks = lm.backbone.stacks
    return [block.mlp.router for stack in stacks for block in stack.blocks if block.has_experts]


@pytest.mark.once
def test_it_answers_learns_saves_and_loads(lm, tmp_path):
    sparse = upcycle(lm, experts=4)
    want = lm.generate(QUESTIONS, max_new_tokens=40)
    assert sparse.generate(QUESTIONS, max_new_tokens=40) == want
    before = [ops.convert_to_numpy(router) for router in routers(sparse)]
    assert len(before) == 2 and all(np.abs(router).max() > 0 for router in before)
    dense_loss = lm.evaluate(ROWS, verbose=0, return_dict=True)["loss"]
    history = sparse.fit(ROWS, epochs=2, verbose=0).history
    # In each stack 0.01 of a loss that is 2 where experts get as much, and little more.
    assert 0.03 < history["loss"][0] - dense_loss < 0.2
    after = [ops.convert_to_numpy(router) for router in routers(sparse)]
    assert all(np.abs(a - b).max() > 1e-7 for a, b in zip(after, before, strict=True))
    expert, other = sparse.backbone.encoder.blocks[1].mlp.experts[:2]
    assert not np.array_equal(*(ops.convert_to_numpy(e.up.kernel) for e in (expert, other)))
    want = sparse.score(ROWS)
    sparse.save_to_preset(tmp_path / "sparse")
    again = T5Gemma2Seq2SeqLM.from_preset(tmp_path / "sparse")
    np.testing.assert_allclose(again.score(ROWS), want, rtol=1e-5)


@pytest.mark.once
def test_with_gradient_checkpointing_the_losses_are_the_same(lm):
    losses = []
    for checkpointing in (False, True):
        sparse = upcycle(lm, experts=4)
        sparse.backbone.gradient_checkpointing = checkpointing
        sparse.compile(keras.optimizers.SGD(0.01))
        losses.append(sparse.fit(ROWS, epochs=2, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.once
def test_adapters_and_integers_go_on_experts(lm):
    sparse = upcycle(lm, experts=4)
    sparse.enable_lora(4)
    paths = {weight.path for weight in sparse.backbone.weights}
    assert "encoder/layer_1/mlp/expert_3/gate/default_lora_a" in paths
    sparse.fit(ROWS, verbose=0)
    sparse.merge_adapter()
    sparse.quantize("int8")
    assert len(sparse.generate(QUESTIONS, max_new_tokens=4)) == 2


@pytest.mark.once
def test_switch_takes_one_expert_times_its_probability(lm):
    sparse = upcycle(lm, experts=4, router="switch")
    assert sparse.backbone.config.encoder.experts.top_k == 1
    assert np.isfinite(sparse.fit(ROWS, verbose=0).history["loss"]).all()


@pytest.mark.once
def test_routers_are_as_wide_as_their_stack():
    dense = t5gemma1_task()  # whose decoder is narrower
    sparse = upcycle(dense, experts=3)
    assert [router.shape[0] for router in routers(sparse)] == [28, 20]
    want = dense.generate(["the cat"], max_new_tokens=6)
    assert sparse.generate(["the cat"], max_new_tokens=6) == want


@pytest.mark.once
def test_memory_is_planned_for_experts(lm):
    sparse = upcycle(lm, experts=4)
    work = Work(mode="inference", dtype="float32")
    found = sum(weight.num_bytes for weight in weights_of(sparse.backbone.config, work))
    assert found == 4 * sparse.backbone.count_params()


@pytest.mark.once
def test_what_cannot_be_is_refused(lm):
    with pytest.raises(TypeError, match="`lm` must be a `T5Gemma2Seq2SeqLM`. Received: lm=3"):
        upcycle(3)
    with pytest.raises(ValueError, match="`router` must be one of top_k, switch. Received"):
        upcycle(lm, router="soft")
    with pytest.raises(ValueError, match="`stacks` must be a list of some of encoder, decoder"):
        upcycle(lm, stacks="encoder")
    with pytest.raises(ValueError, match="`every` must be at most the number of layers"):
        upcycle(lm, every=9)
    with pytest.raises(ValueError, match="`top_k` must be at most the number of experts"):
        upcycle(lm, experts=2, top_k=3)
    with pytest.raises(ValueError, match='`top_k` must be 1 with router="switch"'):
        upcycle(lm, top_k=3, router="switch")
    with pytest.raises(ValueError, match="`num_experts` must be positive"):
        upcycle(lm, experts=0)
    sparse = upcycle(lm, experts=2)
    with pytest.raises(ValueError, match="`lm` must have no experts yet"):
        upcycle(sparse)
    for save in (sparse.export_to_transformers, sparse.save_to_keras_hub_preset):
        with pytest.raises(ValueError, match="A model must have no experts to be saved for"):
            save("nowhere")
    sparse.enable_lora(2)
    with pytest.raises(ValueError, match="`lm` must have no adapters beside its weights"):
        upcycle(sparse)
    assert keras_t5gemma2.upcycle is upcycle
