"""The platform that programs are made for: the override, and the choice when they are lowered."""

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import tiny_backbone

from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig, kernels
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.kernels.runtime import platforms
from keras_t5gemma2.kernels.runtime.dispatch import by_platform, platform_at_hand

IS_JAX = keras.config.backend() == "jax"
JAX_ONLY = pytest.mark.skipif(not IS_JAX, reason="programs of JAX")
MOSAIC = "tpu_custom_call"  # a kernel for TPUs in a lowered program


def test_the_override_is_the_platform_and_ends():
    assert platforms.override() is None
    here = platform_at_hand()
    with kernels.lowered_for("gpu"):
        assert platform_at_hand() == "cuda"
        with kernels.lowered_for("tpu"):
            assert platform_at_hand() == "tpu"
        assert platforms.override() == "cuda"
    assert platforms.override() is None and platform_at_hand() == here


def test_an_unknown_platform_is_refused():
    with pytest.raises(ValueError, match="'rocm', 'tpu'.* Received: platform='npu'"):
        kernels.lowered_for("npu").__enter__()
    assert platforms.override() is None


def test_the_function_of_the_platform_is_called():
    functions = {"cpu": lambda x: x + 1, "tpu": lambda x: x + 2}
    x = ops.convert_to_tensor(np.zeros(2, "float32"))
    other = lambda x: x + 3  # noqa: E731
    assert ops.convert_to_numpy(by_platform(functions, other, x)).tolist() == [1, 1]
    if IS_JAX or keras.config.backend() == "tensorflow":
        for name, want in (("tpu", 2), ("cuda", 3)):
            with kernels.lowered_for(name):
                assert ops.convert_to_numpy(by_platform(functions, other, x)).tolist() == [want] * 2


@JAX_ONLY
def test_a_program_has_the_function_of_what_it_is_lowered_for():
    import jax

    program = jax.jit(
        lambda x: by_platform({"tpu": lambda x: ops.sin(x)}, lambda x: ops.cos(x), x)
    ).trace(np.zeros(2, "float32"))
    for platform, name in (("tpu", "sine"), ("cpu", "cosine"), ("cuda", "cosine")):
        text = program.lower(lowering_platforms=(platform,)).as_text()
        assert f"stablehlo.{name} " in text, platform
        assert text.count("stablehlo.sine") + text.count("stablehlo.cosine") == 1


def encoder(length):
    """A function of arrays that encodes, and their shapes."""
    import jax

    layers = tuple(AttentionConfig(2, 1, 128, window=window) for window in (64, None))
    stack = StackConfig(32, 48, layers)
    model = tiny_backbone(BackboneConfig(64, stack, stack), "bfloat16")

    def encode(values, ids, mask):
        mapping = zip(model.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return model.encode(ids, mask)

    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in model.variables]
    return encode, (shapes, *[jax.ShapeDtypeStruct((2, length), "int32")] * 2)


@JAX_ONLY
def test_an_encoder_exported_for_a_tpu_has_its_kernel_in_every_layer():
    """Exported by JAX itself, with nobody to say what for: no TPU and no libtpu are needed."""
    import jax

    encode, shapes = encoder(256)
    text = {
        platform: jax.export.export(jax.jit(encode), platforms=[platform])(*shapes).mlir_module()
        for platform in ("tpu", "cuda", "cpu")
    }
    assert text["tpu"].count(MOSAIC) == 2  # a layer that slides, and one that does not
    assert MOSAIC not in text["cuda"] and MOSAIC not in text["cpu"]


@JAX_ONLY
def test_the_gradient_of_an_encoder_too():
    import jax

    encode, shapes = encoder(128)
    loss = lambda *args: ops.sum(ops.cast(encode(*args), "float32"))  # noqa: E731
    program = jax.jit(jax.grad(loss, allow_int=True)).trace(*shapes)
    on_tpu = program.lower(lowering_platforms=("tpu",)).as_text()
    assert on_tpu.count(MOSAIC) == 6  # forward, of queries, and of keys: in two kinds of layers
    assert MOSAIC not in program.lower(lowering_platforms=("cpu",)).as_text()


@JAX_ONLY
def test_a_step_for_a_tpu_has_plain_products():
    """Of bfloat16; on a CPU the same ones are sums in float32 of wider numbers."""
    import jax

    shapes = jax.ShapeDtypeStruct((1, 8), "bfloat16"), jax.ShapeDtypeStruct((8, 16), "bfloat16")
    program = jax.jit(lambda x, kernel: kernels.product(x, kernel)).trace(*shapes)
    on_tpu = program.lower(lowering_platforms=("tpu",)).as_text()
    assert "(tensor<1x8xbf16>, tensor<8x16xbf16>) -> tensor<1x16xbf16>" in on_tpu
    assert "bitcast" not in on_tpu
    assert "bitcast" in program.lower(lowering_platforms=("cpu",)).as_text()


@JAX_ONLY
def test_the_mesh_of_a_tensor_names_the_platform():
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from keras_t5gemma2.kernels.runtime.jax import platform_of

    found = []
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    for sharding in (NamedSharding(mesh, PartitionSpec("data")), None):
        x = jax.ShapeDtypeStruct((4,), "float32", sharding=sharding)
        jax.jit(lambda x: found.append(platform_of([x])) or x).trace(x)
    assert found == ["cpu", None]


@JAX_ONLY
def test_kernels_of_a_tpu_are_interpreted_elsewhere_and_not_there(rng):
    import jax

    x = jax.ShapeDtypeStruct((1, 1, 128, 128), "float32")

    def attend(x):
        with kernels.use("splash"):
            return kernels.attend(x, None, [(KeyValues(x, x, None), Window())], 0.3)

    program = jax.jit(attend).trace(x)
    assert MOSAIC in program.lower(lowering_platforms=("tpu",)).as_text()
    assert MOSAIC not in program.lower(lowering_platforms=("cpu",)).as_text()
