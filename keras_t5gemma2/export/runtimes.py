"""The model as functions of named tensors, for runtimes that know nothing of it."""

import contextlib

from keras import InputSpec, ops, tree

from keras_t5gemma2.export import jax_files, strings
from keras_t5gemma2.export.formats import Sizes, check_format, checked_sizes
from keras_t5gemma2.files.atomic import atomic_directory, atomic_file
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation import decoding
from keras_t5gemma2.generation.cache import Cache
from keras_t5gemma2.kernels import Scaled
from keras_t5gemma2.kernels.export import onnx_nodes, onnx_programs, saved_model, torch_programs
from keras_t5gemma2.model.attention import Memory
from keras_t5gemma2.quantization.nbits import nbits_and_level

# What writes a file for each function, and how the files' names end.
_PROGRAMS = {"torch": (torch_programs, ".pt2"), "onnx": (onnx_programs, ".onnx")}


def export(task, path, format, sizes, options):
    """See `Exports.export`.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        path: path of the file or directory.
        format: string.
        sizes: `Sizes`, as they were given.
        options: dict, what the format takes beside.
    """
    makes = _functions_of(task)
    check_format(task, path, format, options, makes)
    if format == "jax":
        options = {"platforms": jax_files.checked_platforms(**options)}
    nodes = contextlib.nullcontext()
    if format == "onnx":
        nodes = onnx_nodes.written(*nbits_and_level(task, **options))
    sizes, resources = checked_sizes(task, format, sizes), ()
    functions = makes(task, sizes).signatures
    if options.get("strings"):
        room = sizes.decoder_length - sizes.prompt_length
        free = Sizes(None, None, 1, room + 1, 0)  # texts have any length, and no images
        *generate, resources = strings.generate_of(task, makes(task, free), room)
        functions["generate"] = generate
    if format == "jax":
        return jax_files.write(path, functions, task.variables, **options)
    if format in _PROGRAMS:
        kind, ending = _PROGRAMS[format]
        with nodes:
            programs = kind.programs(task, functions)
        with atomic_directory(path, written_last=f"{list(programs)[-1]}{ending}") as directory:
            for name, program in programs.items():
                kind.save(program, directory / f"{name}{ending}")
        return
    if format == "litert":
        with atomic_file(path) as file:
            saved_model.write_litert(file, functions, task.variables, options)
        return
    replaced = ("variables/*", "assets/*", "assets.extra/*", "*.pb", "*.pbtxt")
    with atomic_directory(path, replaced, written_last="saved_model.pb") as directory:
        saved_model.write_saved_model(directory, functions, task.variables, resources)


class Functions:
    """`encode`, `prefill` and `step` of a task, each from a dict of tensors to another.

    Names stand for places in trees: what the decoder sees of the encoder begins with `memory_`,
    what it keeps of its own tokens with `cache_`.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        sizes: `Sizes`.
    """

    def __init__(self, task, sizes):
        self._task, self._sizes = task, sizes
        self._decoder = task.backbone.decoder
        self._memory, self._cache = self._memory_specs(), self._cache_specs()

    @property
    def signatures(self):
        """Per name of a function, the function and a `keras.InputSpec` for each of its inputs."""
        batch, length = self._sizes.batch_size, self._sizes.encoder_length
        encoder, decoder = (
            [_spec(f"{side}_{name}", (batch, tokens)) for name in ("token_ids", "padding_mask")]
            for side, tokens in (("encoder", length), ("decoder", self._sizes.prompt_length))
        )
        memory = tree.flatten(self._memory)
        kept = [*memory, *tree.flatten(self._cache), _spec("cache_index", ())]
        specs = {
            "encode": [*encoder, *image_specs(self._task, self._sizes)],
            "prefill": [*decoder, *memory],
            "step": [_spec("token_ids", (batch,)), *kept],
        }
        return {
            name: (getattr(self, name), {spec.name: spec for spec in of_name})
            for name, of_name in specs.items()
        }

    def encode(self, inputs):
        memory = decoding.remember(self._task.backbone, inputs, "projected", self._task.cache_dtype)
        return _named(self._memory, (memory.layers, memory.positions))

    def prefill(self, inputs):
        room = self._sizes.decoder_length - self._sizes.prompt_length
        # Of these only the length is read.
        arrays = {**inputs, "new_token_ids": ops.zeros((1, room), "int32")}
        memory, dtype = self._memory_of(inputs), self._task.cache_dtype
        cache, _ = decoding.prefill(self._task.backbone, arrays, memory, cache_dtype=dtype)
        last = ops.convert_to_tensor(self._sizes.prompt_length - 1, dtype="int32")
        return self._read(inputs, inputs["decoder_token_ids"][:, -1], cache, last)

    def step(self, inputs):
        cache = _structured(self._cache, inputs)
        return self._read(inputs, inputs["token_ids"], cache, inputs["cache_index"])

    def _read(self, inputs, token_ids, cache, index):
        """Logits after one more token of each row, and the cache with it."""
        memory, token_ids = self._memory_of(inputs), ops.expand_dims(token_ids, 1)
        hidden, cache = decoding.read(self._task.backbone, memory, token_ids, cache, index)
        logits = ops.cast(self._task.logits(hidden[:, 0]), "float32")
        return {"logits": logits, **_named(self._cache, cache), "cache_index": index + 1}

    def _memory_of(self, inputs):
        return Memory((), *_structured(self._memory, inputs))

    # What goes in and out ---------------------------------------------------------------------

    def _memory_specs(self):
        length = self._sizes.encoder_length
        pairs = [
            self._buffers("memory", number, length) for number in range(len(self._decoder.blocks))
        ]
        return tuple(pairs), _spec("memory_positions", (self._sizes.batch_size, length))

    def _cache_specs(self):
        batch = self._sizes.batch_size
        counts = caches.slot_counts(self._decoder.config, self._sizes.decoder_length)
        past = tuple(self._buffers("cache", *numbered) for numbered in enumerate(counts))
        positions = {n: _spec(f"cache_positions_{n}", (batch, n)) for n in counts}
        return Cache(past, positions, _spec("cache_padding", (batch,)))

    def _buffers(self, name, number, count):
        """Of the keys and values of `count` tokens in a layer."""
        attention = self._decoder.config.layers[number]
        shape = (self._sizes.batch_size, attention.num_kv_heads, count, attention.head_dim)
        names = [f"{name}_{part}_{number}" for part in ("keys", "values")]
        if self._task.cache_dtype == "int8":
            scales = (*shape[:-1], 1)
            return tuple(
                Scaled(_spec(part, shape, "int8"), _spec(f"{part}_scales", scales, "float32"))
                for part in names
            )
        return tuple(_spec(part, shape, self._decoder.compute_dtype) for part in names)


class HeadFunctions:
    """`classify` of a classifier, from a dict of tensors to one of `outputs`.

    Args:
        task: `T5Gemma2TextClassifier` or `T5Gemma2TokenClassifier`.
        sizes: `Sizes`, of which those of the decoder are not read.
    """

    def __init__(self, task, sizes):
        self._task, self._sizes = task, sizes

    @property
    def signatures(self):
        """As of `Functions`."""
        shape = self._sizes.batch_size, self._sizes.encoder_length
        specs = [_spec(f"encoder_{name}", shape) for name in ("token_ids", "padding_mask")]
        specs += image_specs(self._task, self._sizes)
        return {"classify": (self.classify, {spec.name: spec for spec in specs})}

    def classify(self, inputs):
        return {"outputs": self._task(inputs, training=False)}


def image_specs(task, sizes):
    """List of a `keras.InputSpec` of images; an empty one where there are none."""
    vision, count = task.backbone.config.vision, sizes.images
    if vision is None or count == 0:
        return []
    shape = (sizes.batch_size, count, vision.image_size, vision.image_size, 3)
    return [_spec("images", shape, "float32")]


def _spec(name, shape, dtype="int32"):
    return InputSpec(shape=shape, dtype=dtype, name=name)


def _named(specs, tensors):
    """A dict of the leaves of a tree, by the names that another one of the same form gives."""
    pairs = zip(tree.flatten(specs), tree.flatten(tensors), strict=True)
    return {spec.name: tensor for spec, tensor in pairs}


def _structured(specs, tensors):
    """The inverse of `_named`."""
    return tree.map_structure(lambda spec: tensors[spec.name], specs)


def _functions_of(task):
    """The class of a task's functions: a classifier has one of its own, an embedder none."""
    found = getattr(task, "exported_functions", Functions)
    if found is None:
        raise ValueError(
            "`export` writes functions that generate or classify. Received: a "
            f"{type(task).__name__}. Give an `input_signature` to write what it makes of arrays"
        )
    return found
