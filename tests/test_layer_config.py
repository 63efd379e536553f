"""Every layer can be made again of its config; models of a user's own over the backbone."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from preprocessors import random_image
from tasks import TOKENIZER, tiny_task
from tiny_models import (
    CONFIG,
    ENCODER,
    FULL,
    SMALL_CONFIG,
    VISION,
    randomize,
    tiny_backbone,
)
from tolerances import TOLERANCE

from keras_t5gemma2 import ExpertsConfig, T5Gemma2ImageConverter, T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.kernels import Window
from keras_t5gemma2.lora.dense import Dense
from keras_t5gemma2.model.attention import Attention, CrossAttention
from keras_t5gemma2.model.blocks import Block
from keras_t5gemma2.model.embedder import DecoderEmbedder, Embedder
from keras_t5gemma2.model.experts import Experts
from keras_t5gemma2.model.mlp import GatedMLP
from keras_t5gemma2.model.norm import RMSNorm
from keras_t5gemma2.model.rotary import Positions
from keras_t5gemma2.model.stacks import Decoder, Encoder
from keras_t5gemma2.model.vision import PatchEmbedding, Projector, Vision, VisionBlock, VisionTower
from keras_t5gemma2.preprocessing.image_features import ImageFeatures
from keras_t5gemma2.quantization.layers import QuantizedDense, QuantizedEmbedding

# Nothing is as it is by default.
ATTENTION = dataclasses.replace(FULL, dropout=0.1, norm_epsilon=1e-5, query_pre_attn_scalar=64.0)
EXPERTS = ExpertsConfig(num_experts=3, top_k=1, every=1, balance_loss=0.5)
STACK = dataclasses.replace(
    ENCODER, layers=(ATTENTION,), norm_epsilon=1e-5, dropout=0.2, experts=EXPERTS
)
TOWER = dataclasses.replace(VISION, norm_epsilon=1e-5, dropout=0.3)
MODEL = dataclasses.replace(
    CONFIG, encoder=STACK, decoder=STACK, vision=TOWER, final_logit_soft_cap=30.0
)
NAMED = {"name": "a_name", "dtype": "float32", "trainable": False}
WIDTH = STACK.hidden_dim
RNG = np.random.default_rng(0)
IDS = RNG.integers(10, 101, (2, 5)).astype("int32")
X, MASK = RNG.normal(size=(2, 5, WIDTH)).astype("float32"), np.ones((2, 5), "int32")
IMAGES = RNG.uniform(-1, 1, (2, 28, 28, 3)).astype("float32")
PATCHES = RNG.normal(size=(2, 16, TOWER.hidden_dim)).astype("float32")


def at():
    return Positions(keras.ops.convert_to_tensor(MASK * np.arange(5, dtype="int32")), [ATTENTION])


def crossed(layer):
    """The output of attention to a memory that is narrower."""
    if not layer.built:
        layer.build(None)
    memory = layer.remember(keras.ops.convert_to_tensor(X[..., :20]), at().positions)
    return layer(X, at=at(), memory=memory)


LAYERS = {
    DecoderEmbedder: ({"config": MODEL}, lambda layer: layer(IDS)),
    CrossAttention: ({"config": ATTENTION, "hidden_dim": WIDTH, "memory_dim": 20}, crossed),
    Embedder: ({"config": MODEL}, lambda layer: layer(IDS)),
    RMSNorm: ({"epsilon": 1e-4}, lambda layer: layer(X)),
    Attention: (
        {"config": ATTENTION, "window": Window(2, 1), "hidden_dim": WIDTH},
        lambda layer: layer(X, at=at())[0],
    ),
    GatedMLP: ({"config": STACK}, lambda layer: layer(X)),
    Experts: ({"config": STACK}, lambda layer: layer(X, at=at())),
    Block: (
        {
            **{"config": STACK, "attention": ATTENTION, "window": Window(1, 2)},
            "has_experts": True,
        },
        lambda layer: layer(X, at=at())[0],
    ),
    Encoder: ({"config": STACK, "gradient_checkpointing": True}, lambda layer: layer(X, MASK)),
    Decoder: (
        {"config": STACK, "gradient_checkpointing": True},
        lambda layer: layer(X, MASK, X, MASK),
    ),
    Vision: ({"config": MODEL}, lambda layer: layer(X, IDS * 0 + 7, IMAGES[:, None])),
    VisionTower: ({"config": TOWER, "gradient_checkpointing": True}, lambda layer: layer(IMAGES)),
    VisionBlock: ({"config": TOWER}, lambda layer: layer(PATCHES)),
    Projector: ({"config": TOWER, "hidden_dim": WIDTH}, lambda layer: layer(PATCHES)),
    PatchEmbedding: ({"filters": 6, "kernel_size": 7, "strides": 7}, lambda layer: layer(IMAGES)),
    Dense: ({"units": 9, "use_bias": True}, lambda layer: layer(X)),
    QuantizedDense: ({"units": 9}, lambda layer: layer(X)),
    QuantizedEmbedding: ({"input_dim": 101, "output_dim": 6}, lambda layer: layer(IDS)),
}


def test_all_layers_are_here():
    modules = {inspect.getmodule(cls) for cls in LAYERS}
    classes = {
        cls
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, keras.layers.Layer) and cls.__module__.startswith("keras_t5gemma2")
    }
    assert {cls for cls in classes if cls.__name__ != "Stack"} == set(LAYERS)


@pytest.mark.once
@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_a_layer_is_made_again_of_its_config(cls):
    arguments, call = LAYERS[cls]
    layer = cls(**arguments, **NAMED)
    want_config = layer.get_config()
    constructor = inspect.unwrap(cls.__init__)
    if constructor.__module__.startswith("keras_t5gemma2"):  # the others are Keras's own
        assert set(inspect.signature(constructor).parameters) - {"self", "kwargs"} == set(arguments)
    assert set(arguments) <= set(want_config)
    call(layer)
    randomize(layer)
    data = keras.saving.serialize_keras_object(layer)
    assert data["registered_name"] == f"keras_t5gemma2>{cls.__name__}"
    again = keras.saving.deserialize_keras_object(data)
    assert again.get_config() == want_config
    assert (again.name, again.trainable) == ("a_name", False)
    call(again)
    again.set_weights(layer.get_weights())
    got, want = (keras.ops.convert_to_numpy(call(one)) for one in (again, layer))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def backbone():
    return tiny_task(config=dataclasses.replace(SMALL_CONFIG, vision=VISION)).backbone


@pytest.fixture(scope="module")
def preprocessed():
    """What the preprocessor makes of text, of images and of their features, a row with none too."""
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        TOKENIZER,
        T5Gemma2ImageConverter((28, 28)),
        encoder_sequence_length=12,
        decoder_sequence_length=5,
        tokens_per_image=4,
    )
    image, seen = random_image(), ImageFeatures(RNG.normal(size=(1, 4, 24)).astype("float32"))
    text = ["the cat", "<start_of_image> is"]
    return {
        "text": preprocessor.generate_preprocess(["the cat", "a dog"]),
        "images": preprocessor.generate_preprocess({"encoder_text": text, "images": [None, image]}),
        "features": preprocessor.generate_preprocess(
            {"encoder_text": text, "images": [None, seen]}
        ),
    }


CASES = ["text", "images", "features"]
ONCE = pytest.mark.once


@pytest.mark.compiled
@pytest.mark.parametrize("case", ["text", *(pytest.param(c, marks=ONCE) for c in CASES[1:])])
def test_predict_is_the_call(backbone, preprocessed, case):
    x = preprocessed[case]
    keras.tree.assert_same_structure(x, backbone.input, check_types=False)
    want = backbone(x)
    for got in (backbone.predict(x, verbose=0), backbone.predict_on_batch(x)):
        for name, value in want.items():
            np.testing.assert_allclose(
                got[name], keras.ops.convert_to_numpy(value), **TOLERANCE["float32"]
            )
    shapes = {name: value.shape for name, value in want.items()}
    given = {name: keras.KerasTensor(value.shape, value.dtype) for name, value in x.items()}
    required = {name: value for name, value in given.items() if "image" not in name}
    for inputs in (given, required):
        spec = backbone.compute_output_spec(inputs)
        assert {name: value.shape for name, value in spec.items()} == shapes
    arguments = backbone.trainable_variables, backbone.non_trainable_variables
    without_images = {name: x[name] for name in required}
    if case == "text":
        got, _ = backbone.stateless_call(*arguments, without_images)
        for name, value in want.items():
            np.testing.assert_allclose(
                *(keras.ops.convert_to_numpy(v) for v in (got[name], value)), **TOLERANCE["float32"]
            )


def heads_of(backbone):
    name, dense = "encoder_sequence_output", keras.layers.Dense
    inputs = {key: value for key, value in backbone.input.items() if "image" not in key}
    return {
        "on its output": keras.Model(backbone.input, dense(2)(backbone.output[name])),
        "on a call": keras.Model(backbone.input, dense(2)(backbone(backbone.input)[name])),
        "of text": keras.Model(inputs, dense(2)(backbone(inputs)[name])),
    }


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=ONCE) for kind in ("on its output", "on a call", "of text")]
)
def test_a_head_runs_and_is_saved_and_cloned(backbone, preprocessed, tmp_path, kind):
    head = heads_of(backbone)[kind]
    head.save(tmp_path / "head.keras")
    loaded = keras.models.load_model(tmp_path / "head.keras")
    cloned = keras.models.clone_model(head)
    cloned.set_weights(head.get_weights())
    is_torch = keras.config.backend() == "torch"  # elsewhere each case is compiled
    for case in CASES[:1] if kind == "of text" else CASES if is_torch else CASES[1:2]:
        x = {name: preprocessed[case][name] for name in head.input}
        want = head.predict_on_batch(x)
        for model in (loaded, cloned) if is_torch else (loaded,):
            np.testing.assert_allclose(model.predict_on_batch(x), want, **TOLERANCE["float32"])
    head.compile(keras.optimizers.SGD(1e-3), "mse")
    history = head.fit(x, want + 1, epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]


@pytest.mark.once
def test_a_quantized_part_says_where_a_head_belongs(backbone):
    quantized = tiny_backbone()
    quantized.quantize("int8")
    with pytest.raises(NotImplementedError, match="'encoder' is quantized.*backbone.input"):
        quantized.encoder.get_config()


@pytest.mark.once
def test_cloning_a_task_says_what_to_do():
    lm = tiny_task()
    with pytest.raises(ValueError, match="clone_model.*from_config.lm.backbone.get_config"):
        keras.models.clone_model(lm)
    backbone = type(lm.backbone).from_config(lm.backbone.get_config())
    again = type(lm)(backbone, lm.preprocessor)
    again.compile(sampler="greedy")
    again.set_weights(lm.get_weights())
    assert again.generate("the cat", max_new_tokens=3) == lm.generate("the cat", max_new_tokens=3)
