"""Programs compiled for devices that are only described, of models that are not allocated."""

import contextlib
import functools
import importlib.util
import os
import re

import keras

from keras_t5gemma2 import T5Gemma2Backbone, T5Gemma2Seq2SeqLM
from keras_t5gemma2.config import AttentionConfig, BackboneConfig, StackConfig, VisionConfig
from keras_t5gemma2.generation.calls import call_of
from keras_t5gemma2.model.loading import shapes_only
from keras_t5gemma2.sharding import layouts
from keras_t5gemma2.sharding.layout_map import ModelParallel

MIB = 1 << 20
KINDS = ("v5e", "v6e")
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")


def why_not():
    """Why nothing can be compiled for a TPU here, or `None`."""
    if keras.config.backend() != "jax":
        return "these are programs of JAX"
    if "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None:
        return None
    return "libtpu, the compiler for TPUs, is not installed: `make test-tpu` does it"


@functools.cache
def devices_of(kind):
    """The four devices of a machine that is not there, "v5e" or "v6e"; or of this one, "cpu"."""
    import jax
    from jax.experimental import topologies

    if kind == "cpu":
        return jax.devices()[:4]

    if "TPU_LIBRARY_PATH" not in os.environ:  # read when the library is loaded, here
        (folder,) = importlib.util.find_spec("libtpu").submodule_search_locations
        os.environ["TPU_LIBRARY_PATH"] = os.path.join(folder, "libtpu.so")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # nor is the network asked about this machine
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # by processes side by side
    described = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:2x2")
    return described.devices


def config(depth=1, vocabulary_size=2048, images=False, **sizes):
    """The published 270M model, with so many layers in each stack and another vocabulary.

    Every second layer has no window; `sizes` are other fields of `VisionConfig`.
    """
    heads = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 256}
    local = AttentionConfig(**heads, window=512)
    full = AttentionConfig(**heads, rope_theta=1e6, rope_factor=8.0)
    stack = StackConfig(640, 2048, tuple((local, full)[i % 2] for i in range(depth)))
    vision = VisionConfig(num_layers=1, **sizes) if images else None
    return BackboneConfig(vocabulary_size, stack, stack, vision)


class Described:
    """A task of which nothing is allocated, on a mesh of described devices.

    Args:
        of: `BackboneConfig`.
        kind: of `KINDS`, or "cpu" for the devices of this machine.
        mesh: pair of ints, the devices along the data axis and along the model axis.
        lora: bool. Whether adapters are trained, and nothing else.
        checkpointing: bool. Whether gradients are.
        sampler: string, of `generate`.
        effort: float from -1.0 to 0.0, the compiler's. With the least it takes a fifth of the time,
            and keeps nothing in the memory of the cores that has room in the other.
    """

    def __init__(
        self,
        of,
        kind="v5e",
        mesh=(1, 1),
        lora=False,
        checkpointing=False,
        sampler="greedy",
        effort=-1.0,
    ):
        rows, parts = mesh
        self.kind, self.effort = kind, effort
        devices = devices_of(kind)[: rows * parts]
        self.mesh = keras.distribution.DeviceMesh(mesh, ("batch", "model"), devices)
        self.distribution = None
        if mesh != (1, 1):
            layout_map = T5Gemma2Backbone.get_layout_map(self.mesh)
            self.distribution = ModelParallel(layout_map=layout_map, batch_dim_name="batch")

        backbone = shapes_only(lambda: T5Gemma2Backbone(of, dtype="bfloat16"))
        self.task, self.config = T5Gemma2Seq2SeqLM(backbone), of
        if lora:
            self.task.enable_lora(8)
        self.task.compile(keras.optimizers.AdamW(1e-4), sampler=sampler)
        self.task.backbone.gradient_checkpointing = checkpointing
        shapes_only(lambda: self.task.optimizer.build(self.task.trainable_variables))

    # Shapes -----------------------------------------------------------------------------------

    def array(self, shape, dtype="int32", axes=()):
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        sharding = NamedSharding(self.mesh.backend_mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def values(self, variables):
        return [self.array(v.shape, v.dtype, self._axes(v)) for v in variables]

    def _axes(self, variable):
        if self.distribution is None:
            return ()
        layout = self.distribution.get_variable_layout(variable)
        return layouts.fitted(layout, variable, self.config).axes

    def rows(self, shape, dtype="int32"):
        """An array of rows, spread over the data axis where they can be."""
        parts = self.mesh.shape[0]
        return self.array(shape, dtype, ("batch",) if shape[0] % parts == 0 and parts > 1 else ())

    # Programs ---------------------------------------------------------------------------------

    def compiled(self, function, *arrays, donated=()):
        """`function(*arrays)`, whose variables are those of the task, compiled."""
        import jax

        variables = [*self.task.trainable_variables, *self.task.non_trainable_variables]

        def program(values, *arrays):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arrays)

        with self._distributed():
            lowered = jax.jit(program).lower(self.values(variables), *arrays)
            return self._of_lowered(lowered)

    def _of_lowered(self, lowered):
        options = {} if self.kind == "cpu" else {"exec_time_optimization_effort": self.effort}
        return lowered.compile(compiler_options=options)

    @contextlib.contextmanager
    def _distributed(self):
        given = keras.distribution.distribution()
        keras.distribution.set_distribution(self.distribution)
        try:
            yield
        finally:
            keras.distribution.set_distribution(given)

    def encoder_inputs(self, batch, length, images=0):
        names = "encoder_token_ids", "encoder_padding_mask"
        inputs = {name: self.rows((batch, length)) for name in names}
        if images:
            size = self.config.vision.image_size
            inputs["images"] = self.rows((batch, images, size, size, 3), "float32")
        return inputs

    def generation_inputs(self, batch, length, prompt, room, images=0):
        names = "decoder_token_ids", "decoder_padding_mask"
        return {
            **self.encoder_inputs(batch, length, images),
            **{name: self.rows((batch, prompt)) for name in names},
            "new_token_ids": self.rows((batch, room)),
            "new_tokens": self.array(()),
        }

    def encode(self, batch, length, images=0):
        encode = lambda inputs: self.task.backbone.encode(  # noqa: E731
            inputs["encoder_token_ids"], inputs["encoder_padding_mask"], inputs.get("images")
        )
        return self.compiled(encode, self.encoder_inputs(batch, length, images))

    def forward(self, batch, length, written):
        """Logits of arrays, as a call of the task gives them."""
        inputs = self.encoder_inputs(batch, length)
        for name in ("decoder_token_ids", "decoder_padding_mask"):
            inputs[name] = self.rows((batch, written))
        return self.compiled(lambda inputs: self.task(inputs, training=False), inputs)

    def generate(self, batch=4, length=128, prompt=16, room=32, images=0):
        """All that `generate` runs: the encoder, the prompt and the loop of steps."""
        call = call_of(self.task.generator)

        def generate(inputs):
            return self.task.generator.generate_step(inputs, (1,), call)

        return self.compiled(generate, self.generation_inputs(batch, length, prompt, room, images))

    def fit(self, batch=4, length=128, written=128, images=0):
        """A step of `fit`."""
        import jax

        task = self.task
        decoder = {
            name: self.rows((batch, written))
            for name in ("decoder_token_ids", "decoder_padding_mask")
        }
        x = {**self.encoder_inputs(batch, length, images), **decoder}
        data = x, self.rows((batch, written)), self.rows((batch, written), "float32")
        trained = self.values(task.trainable_variables)
        by_shape = {array.shape: array for array in trained}
        state = (
            trained,
            self.values(task.non_trainable_variables),
            # What is kept for a weight is spread as the weight is.
            [by_shape.get(v.shape, self.array(v.shape, v.dtype)) for v in task.optimizer.variables],
            [self.array(v.shape, v.dtype) for v in task.metrics_variables],
        )
        with self._distributed():
            # As Keras compiles it.
            shardings = None, jax.tree.map(lambda array: array.sharding, state)
            step = jax.jit(task.train_step, donate_argnums=0, out_shardings=shardings)
            return self._of_lowered(step.lower(state, data))


def temp(program):
    """Bytes of a program's intermediate values, on each device."""
    return program.memory_analysis().temp_size_in_bytes


def kernels_in(program):
    """How many kernels for TPUs a program calls."""
    return program.as_text().count('custom_call_target="tpu_custom_call"')


def collectives_in(program):
    """How often a program calls each of `COLLECTIVES`, of those that it calls."""
    text = program.as_text()
    counts = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: count for name, count in counts.items() if count}
