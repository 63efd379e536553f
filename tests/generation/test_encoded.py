"""Inputs encoded once, rows that share them, and what is kept of the encoder's output."""

import keras
import numpy as np
import pytest
from keras import ops, tree
from tasks import small_task, tiny_task
from tiny_models import SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.generation import calls
from keras_t5gemma2.generation import encoded as encoded_inputs
from keras_t5gemma2.generation.compiled_steps import program


@pytest.fixture(scope="module")
def lm():
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="greedy")
    return lm


def generate(lm, inputs, **options):
    outputs = lm.generate(inputs, stop_token_ids=None, max_new_tokens=7, **options)
    return outputs["decoder_token_ids"]


def repeated(inputs, times):
    return {name: np.repeat(value, times, axis=0) for name, value in inputs.items()}


@pytest.mark.once
@pytest.mark.parametrize("kind", ["projected", "shared"])
def test_an_encoded_input_gives_what_the_input_gives(lm, rng, kind):
    inputs = token_inputs(rng, (13, 7), (1, 4))
    encoded = lm.encode(inputs, cross_attention_cache=kind)
    assert len(encoded) == 2
    prompts = {name: value for name, value in inputs.items() if name.startswith("decoder")}
    for _ in range(2):
        got = generate(lm, prompts, encoded=encoded)
        np.testing.assert_array_equal(got, generate(lm, inputs))


@pytest.mark.once
@pytest.mark.parametrize("kind", [pytest.param("projected", marks=pytest.mark.once), "shared"])
def test_several_prompts_share_an_encoded_row(lm, rng, kind):
    inputs = token_inputs(rng, (13, 7), (4, 4))
    prompts = token_inputs(rng, (1,) * 6, (9, 3, 4, 1, 12, 2))
    want = generate(
        lm, {**prompts, **{n: np.repeat(inputs[n], 3, 0) for n in inputs if "enc" in n}}
    )
    got = generate(lm, prompts, encoded=lm.encode(inputs, cross_attention_cache=kind))
    np.testing.assert_array_equal(got, want)


def test_rows_that_share_are_not_tiled(lm, rng, monkeypatch):
    """The encoder's keys and values reach attention once, and not once for every row."""
    encoded = lm.encode(token_inputs(rng, (13,), (1,)))
    batches, attend = set(), kernels.attend

    def spy(query, positions, parts, *args):
        batches.add((query.shape[0], *(kv.keys.shape[0] for kv, _ in parts)))
        return attend(query, positions, parts, *args)

    monkeypatch.setattr(kernels, "attend", spy)
    lm.generate_function = None
    generate(lm, token_inputs(rng, (1,) * 5, (1,) * 5), encoded=encoded)
    lm.generate_function = None
    assert batches == {(5, 5, 1)}


def test_calls_with_different_caches_keep_their_programs(lm):
    made = []

    def asked(kind, dtype):
        lm.cross_attention_cache, lm.cache_dtype = kind, dtype
        make = lambda: made.append((kind, dtype)) or (lambda values, x: x)  # noqa: E731
        call = calls.call_of(lm.generator)
        return program(lm.generator, ("name",), make, call)((), np.zeros(2, "float32"))

    caches = [("shared", "auto"), ("projected", "auto"), ("projected", "int8")]
    for _ in range(2):
        for cache in caches:
            asked(*cache)
    assert made == caches
    lm.generate_function = None
    asked(*caches[0])
    assert made == [*caches, caches[0]]
    lm.cross_attention_cache = lm.cache_dtype = "auto"


@pytest.mark.once
def test_several_samples_of_a_row(rng):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="random")
    inputs = token_inputs(rng, (13, 7), (1, 4))
    ids = generate(lm, inputs, num_return_sequences=3)
    assert ids.shape == (6, 11)
    prompt = inputs["decoder_token_ids"][1][inputs["decoder_padding_mask"][1].astype(bool)]
    for row in ids[3:]:
        np.testing.assert_array_equal(row[:4], prompt)
    assert len({tuple(row) for row in ids[:3]}) == 3


@pytest.mark.once
def test_several_samples_of_a_text_are_a_list():
    lm = tiny_task()
    lm.compile(sampler="random")
    texts = lm.generate("a cat", max_new_tokens=4, num_return_sequences=2)
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
    encoded = lm.encode("a cat")
    assert isinstance(lm.generate(encoded=encoded, max_new_tokens=4), list)
    texts = lm.generate({"decoder_text": ["a", "the cat"]}, encoded=encoded, max_new_tokens=4)
    assert texts[0].startswith("a") and texts[1].startswith("the cat")


@pytest.mark.parametrize("kind", ["shared", "projected"])
def test_what_is_kept_of_an_input_is_there_once(lm, rng, kind):
    """Also where a program gave it out, which makes an array of everything that it returns."""
    encoded = lm.encode(token_inputs(rng, (70, 64), (1, 1)), cross_attention_cache=kind)
    leaves = {id(leaf): leaf for leaf in tree.flatten(encoded.memory)}.values()
    sizes = [int(np.prod(leaf.shape)) for leaf in leaves if 128 in leaf.shape]
    config = lm.backbone.config.decoder
    rows = 2 * 128  # of the bucket that the lengths are in
    heads = [layer.num_kv_heads for layer in config.layers]
    if kind == "shared":
        assert sum(sizes) == rows * (config.hidden_dim + sum(heads) + 1)
    else:
        widths = [2 * layer.num_kv_heads * layer.head_dim for layer in config.layers]
        assert sum(sizes) == rows * (sum(widths) + 1)


@pytest.mark.once
def test_many_rows_come_in_order(lm, rng):
    lengths = tuple(int(n) for n in rng.integers(1, 60, 11))
    inputs = token_inputs(rng, lengths, (1,) * 11)
    np.testing.assert_array_equal(
        generate(lm, inputs, batch_size=4), generate(lm, inputs, batch_size=11)
    )


def test_a_wrong_row_is_found_before_anything_is_generated(monkeypatch):
    lm = tiny_task()
    monkeypatch.setattr(lm, "generate_step", None)
    rows = {"encoder_text": ["a"] * 9, "decoder_text": ["a"] * 8 + ["a cat " * 50]}
    with pytest.raises(ValueError, match="in row 8 a decoder prompt of"):
        lm.generate(rows, max_length=20, batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 0}, "num_return_sequences=0"),
        ({"num_return_sequences": 2}, "a GreedySampler"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"cross_attention_cache": "tiny"}, "cross_attention_cache='tiny'"),
    ],
)
def test_errors(lm, rng, options, message):
    with pytest.raises(ValueError, match=message):
        generate(lm, token_inputs(rng, (13, 7), (1, 1)), **options)


def test_errors_about_what_is_encoded(lm, rng):
    encoded = lm.encode(token_inputs(rng, (13, 7), (1, 1)))
    with pytest.raises(ValueError, match="3 rows and `encoded` of 2 rows"):
        generate(lm, token_inputs(rng, (1, 1, 1), (1, 1, 1)), encoded=encoded)
    with pytest.raises(ValueError, match="`assistant` goes with neither"):
        generate(lm, token_inputs(rng, (1,), (1,)), encoded=encoded, assistant="prompt_lookup")
    with pytest.raises(ValueError, match="inputs=None, encoded=None"):
        generate(lm, None)


def test_the_cache_is_an_option_of_the_task():
    config = tiny_task().get_config()
    assert config["cross_attention_cache"] == "auto"
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG), cross_attention_cache="shared")
    assert lm.cross_attention_cache == "shared"
    with pytest.raises(ValueError, match="must be one of"):
        lm.cross_attention_cache = None


# The model and the weights that it came from


def changes():
    """Per name, what makes an encoded input that of another model: functions of a task."""

    def fit(lm):
        lm.compile(optimizer=keras.optimizers.SGD(0.1), sampler="greedy")
        lm.fit({"encoder_text": ["a"], "decoder_text": ["b"]}, verbose=0)

    def set_weights(lm):
        lm.set_weights([weight + 1 for weight in lm.get_weights()])

    def assign_one_number(lm):
        kernel = lm.backbone.encoder.blocks[0].mlp.down.kernel
        value = np.array(ops.convert_to_numpy(kernel))
        value[-1, -1] += 1e-3
        kernel.assign(value)

    def scale_the_table(lm):
        table = lm.backbone.token_embedding.embeddings
        table.assign(table * 1.01)

    return {
        "fit": (fit, "the weights of the model have changed"),
        "set_weights": (set_weights, "the weights of the model have changed"),
        "one number": (assign_one_number, "the weights of the model have changed"),
        "table": (scale_the_table, "the weights of the model have changed"),
        "lora": (lambda lm: lm.enable_lora(rank=2), "the active adapters"),
        "quantize": (lambda lm: lm.quantize("int8"), "the weights of the model have changed"),
        "cache": (lambda lm: setattr(lm, "cache_dtype", "int8"), "with cache_dtype='auto'"),
    }


def marks(name):
    return () if name == "one number" else pytest.mark.once


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in changes()])
def test_what_was_encoded_before_a_change_is_refused(name):
    change, message = changes()[name]
    lm = small_task()
    encoded = lm.encode("the cat")
    assert isinstance(lm.generate(encoded=encoded, max_new_tokens=2), list)
    change(lm)
    with pytest.raises(ValueError, match=f"{message}.*Call `encode` of this model again"):
        lm.generate(encoded=encoded, max_new_tokens=2)
    assert lm.generate(encoded=lm.encode("the cat"), max_new_tokens=2)


@pytest.mark.once
def test_what_was_encoded_with_other_adapters_is_refused(tmp_path):
    lm = small_task()
    lm.save_weights(tmp_path / "lm.weights.h5")
    lm.enable_lora(rank=2)
    lm.trainable_variables[1].assign(lm.trainable_variables[1] + 1)
    encoded = {}
    for name in ("default", None):
        lm.set_adapter(name)
        encoded[name] = lm.encode("the cat")
    with pytest.raises(ValueError, match="the active adapters"):
        lm.generate(encoded=encoded["default"], max_new_tokens=2)
    lm.set_adapter("default")
    lm.generate(encoded=encoded["default"], max_new_tokens=2)
    lm.merge_adapter()
    with pytest.raises(ValueError, match="whether they are merged"):
        lm.generate(encoded=encoded["default"], max_new_tokens=2)


@pytest.mark.once
def test_what_another_model_encoded_is_refused(tmp_path):
    lm, other = small_task(), small_task()
    encoded = lm.encode("the cat")
    with pytest.raises(ValueError, match=r"by another model. Received: encoded=Encoded\(rows=1"):
        other.generate(encoded=encoded, max_new_tokens=2)
    same = T5Gemma2Seq2SeqLM(lm.backbone, lm.preprocessor)
    same.compile(sampler="greedy")
    want = lm.generate(encoded=encoded, max_new_tokens=2)
    assert same.generate(encoded=encoded, max_new_tokens=2) == want
    # What changes no number changes nothing.
    lm.evaluate({"encoder_text": ["a"], "decoder_text": ["b"]}, verbose=0)
    lm.predict({"encoder_text": ["a"], "decoder_text": ["b"]}, verbose=0)
    lm.set_weights(lm.get_weights())
    lm.save_weights(tmp_path / "lm.weights.h5")
    lm.load_weights(tmp_path / "lm.weights.h5")
    assert lm.generate(encoded=encoded, max_new_tokens=2) == want
    lm.set_weights([weight * 2 for weight in lm.get_weights()])
    encoded = lm.encode("the cat")
    lm.load_weights(tmp_path / "lm.weights.h5")
    with pytest.raises(ValueError, match="the weights of the model have changed"):
        lm.generate(encoded=encoded, max_new_tokens=2)


@pytest.mark.once
def test_a_sample_of_large_weights_is_compared(monkeypatch):
    lm = small_task()
    monkeypatch.setattr(encoded_inputs, "_MOST_SAMPLES", 1000)
    weights = lm.backbone.weights
    encoded = lm.encode("the cat")
    lm.generate(encoded=encoded, max_new_tokens=2)
    for weight in (weights[0], weights[5], weights[-1]):
        weight.assign(weight + 1)
        with pytest.raises(ValueError, match="the weights of the model have changed"):
            lm.generate(encoded=encoded, max_new_tokens=2)
        weight.assign(weight - 1)


@pytest.mark.once
def test_what_is_encoded_says_what_it_is(lm, rng):
    encoded = lm.encode(token_inputs(rng, (13, 7), (1, 1)), cross_attention_cache="shared")
    assert repr(encoded) == (
        f'Encoded(rows=2, tokens=20, bytes={encoded.nbytes}, kind="shared", dtype="float32")'
    )
    leaves = {id(leaf): leaf for leaf in tree.flatten(encoded.memory)}.values()
    assert encoded.nbytes == sum(4 * int(np.prod(leaf.shape)) for leaf in leaves)
    prompts = token_inputs(rng, (1, 1), (1, 1))
    with pytest.raises(ValueError, match="cross_attention_cache='projected', encoded=Encoded"):
        generate(lm, prompts, encoded=encoded, cross_attention_cache="projected")
    with pytest.raises(TypeError, match="must be what `encode` gave.*of type str"):
        generate(lm, prompts, encoded="the cat")
