"""Generation against the forward pass, and its arguments, inputs and errors."""

import copy
import dataclasses
import functools

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from preprocessors import random_image
from tasks import SMALL_ROWS, small_task, tiny_task
from tiny_models import END_OF_IMAGE, SMALL_CONFIG, TEXT_CONFIG, VISION, tiny_backbone, token_inputs
from tolerances import TOLERANCE

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.generation import batching, cache, decoding


@pytest.fixture(scope="module")
def text_lm():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(TEXT_CONFIG))
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture(scope="module")
def lm():
    """With a preprocessor, for text and images."""
    return tiny_task(config=dataclasses.replace(SMALL_CONFIG, vision=VISION))


@functools.cache
def small_lm(sampler):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler=sampler)
    return lm


# Against the forward pass


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only torch reads them in place")
def test_kernels_of_the_decoder_are_laid_out_for_steps_and_stay_the_same(rng):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    inputs = token_inputs(rng, (5, 9), (1, 1))
    before = [np.array(ops.convert_to_numpy(w)) for w in lm.weights]
    want = lm.predict_on_batch(inputs)
    lm.generate(inputs, stop_token_ids=None, max_new_tokens=2)
    kernel = lm.backbone.decoder.blocks[0].mlp.down.kernel
    assert kernel.value.t().is_contiguous() and not kernel.value.is_contiguous()
    for weight, value in zip(lm.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)
    np.testing.assert_allclose(lm.predict_on_batch(inputs), want, **TOLERANCE["float32"])
    kernel.assign(kernel * 0 + 1)
    assert kernel.value.t().is_contiguous() and (ops.convert_to_numpy(kernel) == 1).all()


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only torch reads them in place")
def test_kernels_that_are_trained_stay_as_the_optimizer_has_them():
    lm = small_task()
    down, gate = (getattr(lm.backbone.decoder.blocks[0].mlp, name) for name in ("down", "gate"))
    gate.trainable = False
    lm.compile(optimizer="adam", sampler="greedy")
    lm.generate("the cat", max_new_tokens=2)
    assert not down.kernel.value.is_contiguous() and not gate.kernel.value.is_contiguous()
    encoders = lm.backbone.encoder.blocks[0].mlp.down
    kernels.lay_out(encoders.kernel, for_steps=True)  # as in the file of a checkpoint
    is_contiguous = []

    class Generating(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            lm.generate("the cat", max_new_tokens=2)
            is_contiguous.append([x.kernel.value.is_contiguous() for x in (down, gate, encoders)])

    lm.fit(SMALL_ROWS, epochs=2, verbose=0, callbacks=[Generating()])
    assert is_contiguous == [[True, False, True]] * 2


@pytest.mark.parametrize(
    "lengths",
    [(1, 9, 4), *(pytest.param(x, marks=pytest.mark.once) for x in [(1, 1, 1), (18, 2, 30)])],
    ids=str,
)
def test_prefill_and_steps_are_the_whole_sequence(text_lm, rng, lengths):
    """Prompts of one token to six windows, in one batch, generated past another four windows."""
    inputs = token_inputs(rng, (13, 7, 21), lengths)
    inputs["decoder_token_ids"][:, 0] = END_OF_IMAGE
    outputs = text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=20)
    ids = outputs["decoder_token_ids"]
    whole = {
        **inputs,
        "decoder_token_ids": ids,
        "decoder_padding_mask": outputs["decoder_padding_mask"].astype("int32"),
    }
    logits = text_lm.predict_on_batch(text_lm.backbone.complete(whole))
    for row, length in enumerate(lengths):
        assert ids[row, :length].tolist() == inputs["decoder_token_ids"][row, :length].tolist()
        chosen = logits[row, length - 1 : length + 19].argmax(-1)
        assert chosen.tolist() == ids[row, length : length + 20].tolist()
        assert outputs["decoder_padding_mask"][row].sum() == length + 20


class Logits(keras_hub.samplers.Sampler):
    """Gives the logits of the first steps, of a prompt that holds all tokens already."""

    def __call__(self, next, prompt, cache, index, **kwargs):
        logits = []
        for step in range(3):
            new, _, cache = next(prompt, cache, index + step)
            logits.append(new)
        return ops.stack(logits, axis=1)


@pytest.mark.once
def test_logits_of_each_step_are_those_of_the_whole_sequence(text_lm, rng):
    """To rounding, where tokens alone would hide small differences."""
    inputs = token_inputs(rng, (13, 7), (9, 9))
    want = text_lm.predict_on_batch(text_lm.backbone.complete(inputs))
    rows = batching.rows_of_arrays({**inputs})
    prompts = [prompt[:6] for prompt in rows.prompts]
    arrays = batching.pad_rows(rows._replace(prompts=prompts), new_tokens=5)
    arrays["new_token_ids"][:, :3] = inputs["decoder_token_ids"][:, 6:]
    lm = T5Gemma2Seq2SeqLM(text_lm.backbone)
    lm.compile(sampler=Logits())
    tensors = {name: ops.convert_to_tensor(value) for name, value in arrays.items()}
    got = lm.make_generate_function()(tensors, stop_token_ids=None)
    # From the last token of each prompt on.
    np.testing.assert_allclose(ops.convert_to_numpy(got), want[:, 5:8], **TOLERANCE["float32"])


@pytest.mark.once
def test_a_masked_encoder_is_as_good_as_none(text_lm, rng):
    inputs = token_inputs(rng, (13, 13), (3, 3))
    inputs["encoder_padding_mask"][:] = 0
    other = {**inputs, "encoder_token_ids": inputs["encoder_token_ids"][:, ::-1]}
    one, two = (text_lm.generate(i, stop_token_ids=None, max_new_tokens=9) for i in (inputs, other))
    np.testing.assert_array_equal(one["decoder_token_ids"], two["decoder_token_ids"])


def test_rings_hold_no_more_than_their_window(text_lm):
    counts = [5, 300]  # of a local layer with a window of 5, and of a full one
    assert cache.slot_counts(TEXT_CONFIG.decoder, 300) == counts


# Programs


@pytest.mark.once
def test_a_thousand_lengths_compile_a_handful_of_programs(text_lm, monkeypatch):
    """Every shape that reaches the compiled function is a program; count them."""
    shapes = set()

    def count(tensors, stop_token_ids):
        shapes.add(tuple((name, tuple(t.shape)) for name, t in sorted(tensors.items())))
        prompt, new = tensors["decoder_token_ids"], tensors["new_token_ids"]
        return ops.concatenate([prompt, ops.zeros_like(new)], axis=1)

    monkeypatch.setattr(text_lm.generator, "make_generate_function", lambda *_: count)
    for length in range(1, 1001):
        ids = np.ones((1, length), "int32")
        text_lm.generate(
            {
                "encoder_token_ids": ids,
                "encoder_padding_mask": ids,
                "decoder_token_ids": ids[:, :1],
                "decoder_padding_mask": ids[:, :1],
            },
            stop_token_ids=None,
            max_new_tokens=16 + length % 17,
        )
    assert len(shapes) == 7


def test_the_step_is_traced_once_for_lengths_of_one_bucket(rng, monkeypatch):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    calls, prefill = [], decoding.prefill
    monkeypatch.setattr(
        decoding, "prefill", lambda *args, **kwargs: calls.append(1) or prefill(*args, **kwargs)
    )
    for length in (3, 17, 40):
        inputs = token_inputs(rng, (length,), (1,))
        lm.generate(inputs, stop_token_ids=None, max_new_tokens=length % 7 + 1)
    compiles = keras.config.backend() != "torch"
    assert len(calls) == (1 if compiles else 3)


# Samplers


@pytest.mark.parametrize(
    "sampler",
    [
        "top_p",
        *(
            pytest.param(name, marks=pytest.mark.once)
            for name in ("beam", "top_k", "random", "contrastive")
        ),
        pytest.param(
            keras_hub.samplers.TopKSampler(k=3, seed=1, temperature=0.7), marks=pytest.mark.once
        ),
        pytest.param(keras_hub.samplers.BeamSampler(num_beams=2), marks=pytest.mark.once),
    ],
    ids=lambda sampler: sampler if isinstance(sampler, str) else type(sampler).__name__,
)
def test_samplers_by_name_and_as_objects(rng, sampler):
    inputs = token_inputs(rng, (13, 7), (1, 4))
    outputs = small_lm(sampler).generate(inputs, stop_token_ids=(3,), max_new_tokens=6)
    ids, mask = outputs["decoder_token_ids"], outputs["decoder_padding_mask"]
    assert ids.shape == mask.shape == (2, 10)
    for row, length in enumerate((1, 4)):
        assert length < mask[row].sum() <= length + 6
        assert (ids[row][mask[row]] >= 0).all() and (ids[row] < 101).all()


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["beam", pytest.param("contrastive", marks=pytest.mark.once)])
def test_samplers_of_several_beams_take_a_batch_of_one(rng, sampler):
    """Whose beams a backend may hold as views of one row."""
    inputs = token_inputs(rng, (13, 13), (4, 4))
    inputs = {name: np.stack([value[0], value[0]]) for name, value in inputs.items()}
    options = {"stop_token_ids": (3,), "max_new_tokens": 6}
    two = small_lm(sampler).generate(inputs, **options)["decoder_token_ids"]
    first = {name: value[:1] for name, value in inputs.items()}
    one = small_lm(sampler).generate(first, **options)["decoder_token_ids"]
    assert one[0].tolist() == two[0].tolist() == two[1].tolist()


@pytest.mark.once
def test_contrastive_search_of_alpha_zero_is_greedy(text_lm, rng):
    """The largest probability wins where similarity does not count; prompts of two lengths."""
    inputs = token_inputs(rng, (13, 7), (2, 6))
    want = text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=8)
    lm = T5Gemma2Seq2SeqLM(text_lm.backbone)
    lm.compile(sampler=keras_hub.samplers.ContrastiveSampler(k=3, alpha=0.0))
    got = lm.generate(inputs, stop_token_ids=None, max_new_tokens=8)
    np.testing.assert_array_equal(got["decoder_token_ids"], want["decoder_token_ids"])


# Limits and prompts


@pytest.mark.once
def test_max_length_counts_the_prompt_and_max_new_tokens_does_not(text_lm, rng):
    inputs = token_inputs(rng, (13, 7), (2, 6))
    by_length = text_lm.generate(inputs, stop_token_ids=None, max_length=10)
    assert by_length["decoder_padding_mask"].sum(1).tolist() == [10, 10]
    by_new = text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=3)
    assert by_new["decoder_padding_mask"].sum(1).tolist() == [5, 9]
    both = text_lm.generate(inputs, stop_token_ids=None, max_length=8, max_new_tokens=4)
    assert both["decoder_padding_mask"].sum(1).tolist() == [6, 8]
    one, three = by_length["decoder_token_ids"][0], by_new["decoder_token_ids"][0]
    assert one[:5].tolist() == three[:5].tolist()


@pytest.mark.compiled
def test_without_a_limit_arrays_are_filled(text_lm, rng):
    inputs = token_inputs(rng, (13, 7), (9, 9))
    inputs["decoder_padding_mask"][0, 4:] = 0
    inputs["decoder_padding_mask"][1, 2:] = 0
    outputs = text_lm.generate(inputs, stop_token_ids=None)
    assert outputs["decoder_padding_mask"].sum(1).tolist() == [9, 9]


def test_left_and_right_padded_prompts_give_the_same(text_lm):
    outputs = []
    for side in ("left", "right"):
        inputs = token_inputs(np.random.default_rng(3), (13, 7), (2, 6), side=side)
        outputs.append(text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=5))
    np.testing.assert_array_equal(outputs[0]["decoder_token_ids"], outputs[1]["decoder_token_ids"])


def test_strip_prompt_leaves_the_new_tokens(text_lm, rng):
    inputs = token_inputs(rng, (13, 7), (2, 6))
    whole = text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=3)
    new = text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=3, strip_prompt=True)
    assert new["decoder_padding_mask"].sum(1).tolist() == [3, 3]
    for row, length in enumerate((2, 6)):
        got = new["decoder_token_ids"][row, :3].tolist()
        assert got == whole["decoder_token_ids"][row, length : length + 3].tolist()


# Text and images


def test_text_in_text_out(lm):
    one = lm.generate("the cat", max_new_tokens=5)
    assert isinstance(one, str)
    assert lm.generate(["the cat", "a dog is here"], max_new_tokens=5)[0] == one
    assert lm.generate({"encoder_text": "the cat"}, max_new_tokens=5) == one


def test_the_default_length_is_the_preprocessors(lm):
    arrays = lm.preprocessor.generate_preprocess(["the cat"])
    preprocessor, lm.preprocessor = lm.preprocessor, None
    ids = lm.generate(arrays, stop_token_ids=(lm_end(preprocessor),))
    lm.preprocessor = preprocessor
    text = preprocessor.generate_postprocess(ids)
    assert lm.generate(["the cat"]) == text


def lm_end(preprocessor):
    return preprocessor.tokenizer.end_token_id


@pytest.mark.once
def test_rows_with_different_images_are_the_rows_alone(lm):
    small, large = random_image(9, 8), random_image(40, 70, seed=1)
    inputs = {
        "encoder_text": ["the cat", "<start_of_image> is", "<start_of_image>a<start_of_image>"],
        "images": [None, small, [large, small]],
        "decoder_text": ["", "a red", "the"],
    }
    given = copy.copy(inputs)
    together = lm.generate(inputs, max_new_tokens=6)
    assert inputs == given
    for row, text in enumerate(together):
        alone = {name: values[row] for name, values in inputs.items()}
        assert lm.generate(alone, max_new_tokens=6) == text
    assert together[1].startswith("a red")
    stripped = lm.generate(inputs, max_new_tokens=6, strip_prompt=True)
    assert together[1] == "a red" + stripped[1]


def test_images_count(lm):
    def text(image):
        inputs = {"encoder_text": "<start_of_image> is", "images": image}
        return lm.preprocessor.generate_preprocess(inputs)["images"]

    first, second = text(random_image(seed=1)), text(random_image(seed=2))
    assert np.abs(first - second).max() > 0.5


@pytest.mark.once
def test_a_decoder_alone_continues_its_prompt(lm):
    """No `encoder_text` at all: nothing to see in the encoder, whatever is in the batch."""
    assert lm.generate({"decoder_text": "the cat"}, max_new_tokens=4).startswith("the cat")


def test_a_data_set_of_batches(lm):
    tf = pytest.importorskip("tensorflow")
    texts = ["the cat", "a dog"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(1)
    assert lm.generate(dataset, max_new_tokens=5) == lm.generate(texts, max_new_tokens=5)


# Errors


def test_auto_stop_needs_a_preprocessor(text_lm, rng):
    with pytest.raises(ValueError, match="preprocessor=None"):
        text_lm.generate(token_inputs(rng, (13,), (9,)))


def test_no_room_for_a_token(text_lm, rng):
    inputs = token_inputs(rng, (13, 7), (2, 6))
    with pytest.raises(ValueError, match=r"max_length=6, .* in row 1 a decoder prompt of 6"):
        text_lm.generate(inputs, stop_token_ids=None, max_length=6)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=0)


def test_an_empty_prompt(text_lm, rng):
    inputs = token_inputs(rng, (13, 7), (2, 6))
    inputs["decoder_padding_mask"][1] = 0
    with pytest.raises(ValueError, match="an empty prompt in row 1"):
        text_lm.generate(inputs, stop_token_ids=None, max_new_tokens=3)
