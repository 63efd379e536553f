"""What computing costs as inputs grow: read from programs, where clocks would be unsteady."""

import math
import re

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import SMALL_CONFIG, tiny_backbone

from keras_t5gemma2 import AttentionConfig, StackConfig, T5Gemma2Seq2SeqLM, kernels
from keras_t5gemma2.generation import batching
from keras_t5gemma2.kernels import KeyValues, Window, attend
from keras_t5gemma2.kernels.ops.screened import Screen
from keras_t5gemma2.model.stacks import Encoder

BACKEND = keras.config.backend()


def largest_array(function, *arrays):
    """Elements of the largest array that a program makes."""
    if BACKEND != "torch":
        shapes = re.findall(r"= \w+\[([\d,]+)\]", program(function, *arrays))
        return max(math.prod(int(n) for n in shape.split(",")) for shape in shapes)

    outputs = operations(lambda: function(*map(ops.convert_to_tensor, arrays)))
    return max(output.untyped_storage().nbytes() // output.itemsize for _, output in outputs)


def operations(function):
    """On torch, the name and the output of each operation that `function` runs."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            outputs = function(*args, **(kwargs or {}))
            for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
                if isinstance(output, torch.Tensor):
                    found.append((function.__name__, output))
            return outputs

    with Record():
        function()
    return found


def program(function, *arrays):
    """What the compiler made of a function of tensors, as text."""
    if BACKEND == "jax":
        import jax

        # As users have it, and not as `conftest.py` does to compile quickly.
        options = {"xla_cpu_use_fusion_emitters": True}
        return jax.jit(function).lower(*arrays).compile(options).as_text()
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True)
    tensors = tf.nest.map_structure(tf.constant, arrays)
    return compiled.experimental_get_compiler_ir(*tensors)(stage="optimized_hlo")


@pytest.mark.parametrize("window", [Window(), Window.bidirectional(512)], ids=str)
def test_attention_makes_no_array_of_length_times_length(rng, window):
    def function(query, keys, values, positions):
        return attend(query, positions, [(KeyValues(keys, values, positions), window)], 0.3)

    def largest(length):
        shapes = [(1, 2, length, 16), (1, 1, length, 16), (1, 1, length, 16)]
        arrays = [np.zeros(shape, "float32") for shape in shapes]
        return largest_array(function, *arrays, np.arange(length, dtype="int32")[None])

    # Blocks have one size. What is as long as the input has 16 numbers a head, and scores would
    # have as many as there are keys.
    assert largest(8192) <= max(2 * 8192 * 16, 2 * 256 * 1024)


@pytest.mark.skipif(BACKEND != "jax", reason="XLA plans the memory of all layers at once")
def test_what_layers_compute_in_takes_no_more_memory_for_more_layers():
    """Buffers that begin with zeros XLA would make for all layers before the first."""
    import jax

    length, width = 4096, 128

    def held(blocks):
        attention = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=32, window=512)
        full = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=32, window=None)
        kinds = (attention, full) * (blocks // 2)
        encoder = Encoder(StackConfig(hidden_dim=width, mlp_dim=48, layers=kinds))
        encoder.build((None, length, width))

        def output(x, values):
            return encoder.stateless_call(values, [], x, np.ones((1, length), "int32"))[0]

        values = [variable.value for variable in encoder.trainable_variables]
        program = jax.jit(output).lower(np.ones((1, length, width), "float32"), values).compile()
        return program.memory_analysis().temp_size_in_bytes

    hidden_state = 4 * length * width
    assert held(6) - held(2) < hidden_state


def test_no_array_is_as_long_as_the_input_and_as_wide_as_the_mlp():
    from keras_t5gemma2.model.mlp import GatedMLP

    mlp = GatedMLP(StackConfig(hidden_dim=8, mlp_dim=256, layers=()))
    mlp.build(None)
    assert largest_array(lambda x: mlp(x), np.zeros((1, 8192, 8), "float32")) <= 2048 * 256


@pytest.mark.compiled
@pytest.mark.parametrize("cache_dtype", ["auto", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_loop_of_generation_copies_no_cache(cache_dtype):
    """A token is written into its slot, and no buffer of the cache is copied for it."""
    slots, width = 97, 24
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=width, window=slots)
    stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(attention,) * 2)
    config = SMALL_CONFIG.__class__(vocabulary_size=101, encoder=stack, decoder=stack)
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config), cache_dtype=cache_dtype)
    lm.compile(sampler="greedy")
    rows = batching.Rows([np.ones(3, "int32")], [np.ones(3, bool)], [np.ones(1, "int32")], {})
    arrays = batching.pad_rows(rows, 200)
    if BACKEND == "torch":
        inputs = {name: ops.convert_to_tensor(array) for name, array in arrays.items()}
        done = [
            name
            for name, output in operations(lambda: lm.make_generate_function()(inputs))
            if output.shape[-2:] == (slots, width) and "view" not in name
            if cache_dtype == "auto" or "int8" in str(output.dtype)
        ]
        # Two buffers of two layers are made, and written once a step.
        assert {name.split(".")[0] for name in done} <= {"zeros", "index_copy_", "detach", "expand"}
        return
    text = program(lambda inputs: lm.generate_step(inputs), arrays)

    computations = re.split(r"\n(?=(?:ENTRY )?%\S+ \()", text)
    inside = [c for c in computations if not c.startswith("ENTRY")]
    dtype = "f32" if cache_dtype == "auto" else "s8"
    buffer = rf"= {dtype}\[(?:1,)*{slots},{width}\]\S* "
    written = [line for c in inside for line in re.findall(buffer + r"dynamic-update-slice.*", c)]
    copied = [line for c in inside for line in re.findall(buffer + r"(?:copy|transpose)\(.*", c)]
    assert len(written) == 4  # keys and values of two layers
    assert copied == []
    if cache_dtype == "int8":
        # Those of the encoder's 64 tokens are converted, and not before the loop.
        converting = re.findall(rf"(%\S+) \(\S+ s8\[[\d,]*64,{width}\]\) -> f32", text)
        (entry,) = (c for c in computations if c.startswith("ENTRY"))
        assert converting
        assert not set(re.findall(r"calls=(%[^\s,]+)", entry)) & set(converting)


def test_rows_of_one_input_are_encoded_once(rng):
    """A batch of samples costs the encoder's work of one row."""
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG))
    lm.compile(sampler="random")
    rows = []
    encode = lm.backbone.encode
    lm.backbone.encode = lambda ids, *args: rows.append(ids.shape[0]) or encode(ids, *args)
    ids = np.ones((1, 5), "int32")
    inputs = {f"encoder_{name}": ids for name in ("token_ids", "padding_mask")}
    inputs |= {f"decoder_{name}": ids[:, :1] for name in ("token_ids", "padding_mask")}
    lm.generate(inputs, stop_token_ids=None, max_new_tokens=3, num_return_sequences=4)
    assert rows == [1]


# What TensorFlow keeps does not show in its programs: `tools/benchmark/loss.py` measures it, and
# the next test shows why.
@pytest.mark.parametrize(
    "is_checkpointing",
    [] if BACKEND == "tensorflow" else [pytest.param(False, marks=pytest.mark.slow), True],
)
def test_checkpointing_keeps_one_hidden_state_of_a_block(is_checkpointing):
    length, width = 96, 32

    def kept(blocks):
        attention = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=None)
        encoder = Encoder(StackConfig(hidden_dim=width, mlp_dim=48, layers=(attention,) * blocks))
        encoder.build((None, length, width))
        encoder.gradient_checkpointing = is_checkpointing
        return _kept_for_gradients(encoder, np.ones((2, length, width), "float32"))

    of_a_block = (kept(6) - kept(2)) / 4 / (2 * length * width * 4)
    assert of_a_block < 2 if is_checkpointing else of_a_block > 8


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "tensorflow", reason="what it keeps does not show in its programs")
def test_training_keeps_the_gate_and_the_other_product_of_an_mlp():
    """On torch also what is computed from the two, for the gradient of the next kernel."""
    length, wide = 96, 2048

    def kept(blocks):
        attention = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=8, window=None)
        encoder = Encoder(StackConfig(hidden_dim=16, mlp_dim=wide, layers=(attention,) * blocks))
        encoder.build((None, length, 16))
        return _kept_for_gradients(encoder, np.ones((2, length, 16), "float32"))

    of_a_block = (kept(6) - kept(2)) / 4 / (2 * length * wide * 4)
    assert of_a_block < (3.5 if BACKEND == "torch" else 2.5)


@pytest.mark.parametrize("is_checkpointing", [False, True] if BACKEND == "tensorflow" else [])
def test_the_second_run_of_a_block_is_one_operation(is_checkpointing):
    """Nothing of it can be computed, and then kept, before its gradient is wanted."""
    import tensorflow as tf

    attention = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=None)
    encoder = Encoder(StackConfig(hidden_dim=32, mlp_dim=48, layers=(attention,) * 2))
    encoder.build((None, 16, 32))
    encoder.gradient_checkpointing = is_checkpointing

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = encoder(x, tf.ones((2, 16), "int32"), training=True)
        return tape.gradient(output, x)

    program = gradient.get_concrete_function(tf.ones((2, 16, 32))).graph.get_operations()
    products = [op for op in program if "MatMul" in op.type and "gradient_tape" in op.name]
    assert not products if is_checkpointing else len(products) > 20


def _kept_for_gradients(encoder, x):
    """Bytes that a training step of the encoder holds, or on torch the forward pass for it."""
    mask = np.ones(x.shape[:2], "int32")
    if BACKEND == "jax":
        import jax

        def loss(x, values):
            return encoder.stateless_call(values, [], x, mask, training=True)[0].sum()

        values = [variable.value for variable in encoder.trainable_variables]
        lowered = jax.jit(jax.grad(loss)).lower(x, values)
        return lowered.compile().memory_analysis().temp_size_in_bytes
    import torch

    weights = {variable.value.untyped_storage().data_ptr() for variable in encoder.variables}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(torch.tensor(x, requires_grad=True), torch.tensor(mask), training=True)
    return sum(size for size, _ in sizes.values())


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles no loop")
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_a_loop_carries_no_floats_of_codes(rng, dtype, rows):
    """Made in front of it, as compilers like to, they would be read in each step."""
    table = ops.cast(rng.integers(-128, 128, (1024, 64)), dtype)
    kernel = ops.cast(rng.integers(-128, 128, (64, 96)), dtype)

    def loop(x, table, kernel):
        def step(i, x):
            ids = ops.argmax(kernels.times_codes(x, table), axis=-1)
            read = kernels.take_rows(table, ids) if dtype == "bfloat16" else x
            y = kernels.product_of_codes(ops.cast(read, "float32"), kernel)
            return i + 1, x + y[:, :64] + ops.cast(ops.expand_dims(ids, -1), "float32")

        return ops.while_loop(lambda i, x: i < 9, step, (0, x))[1]

    text = program(loop, ops.ones((rows, 64)), table, kernel)
    carried = re.findall(r"= \((.*?)\) while\(", text)
    assert carried
    wide = re.compile(r"f32\[(1024,64|64,1024|64,96|8,8,96|96,64)\]")
    assert not [shapes for shapes in carried if wide.search(shapes)]


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles no loop")
@pytest.mark.parametrize("rows", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_loop_that_screens_a_table_carries_the_table_and_its_codes_alone(rng, rows):
    table = rng.standard_normal((4096, 64)).astype("float32")
    screen = kernels.screen_of(ops.convert_to_tensor(table))

    def loop(x, table, *screen):
        def step(i, x):
            found = kernels.screened_logits(x, table, Screen(*screen))
            ids = ops.argmax(found.logits, axis=-1)
            return i + 1, x + ops.take(table, ids, axis=0)

        return ops.while_loop(lambda i, x: i < 9, step, (0, x))[1]

    text = program(loop, ops.ones((rows, 64)), table, *map(ops.convert_to_numpy, screen))
    carried = re.findall(r"= \((.*?)\) while\(", text)
    assert any("s8[4096,64]" in shapes for shapes in carried)
    for shapes in carried:
        arrays = re.findall(r"f32\[([\d,]+)\]", shapes)
        sizes = [math.prod(map(int, shape.split(","))) for shape in arrays]
        assert sizes.count(table.size) <= 1
