"""Compiled programs of a generator: one for each kind of cache, sampler and set of shapes."""

import threading

from keras import ops, tree

from keras_t5gemma2 import compiling, kernels
from keras_t5gemma2.generation import batching, decoding, finite
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation.loop import first_state
from keras_t5gemma2.generation.samplers import taking_turns
from keras_t5gemma2.model.residual import sum_dtype
from keras_t5gemma2.sharding.batch import to_devices

# Programs kept for each choice of adapters. Sizes are rounded up, so that most uses need fewer.
# On TensorFlow, XLA keeps its part of those that go: 3.7 MB of a function of 80 operations
# (TensorFlow 2.21; a function that XLA does not compile gives all back). No public name frees it.
MOST_PROGRAMS = 64


class Programs:
    """What was compiled for the present weights, adapters and `compile`; the latest used are kept.

    Attributes:
        generate: the function that `make_generate_function` gives.
        most: int. Programs that are kept.
    """

    def __init__(self, generate):
        self.generate, self.most = generate, MOST_PROGRAMS
        self._by_key = {}

    def __len__(self):
        return len(self._by_key)

    def get(self, key, make):
        """The program of a key, made by `make()` where there is none."""
        with _lock:
            found = self._by_key.pop(key, None)
            self._by_key[key] = found = make() if found is None else found
            while len(self._by_key) > self.most:
                del self._by_key[next(iter(self._by_key))]
        return found


_lock = threading.RLock()


def programs_of(generator):
    """The `Programs` of a generator; `compile`, new adapters and quantizing make it forget them."""
    with _lock:
        if generator.programs is None:
            # On TensorFlow, Keras sets no attribute that is the new value already: while there are
            # programs, the task's `generate_function` is not `None`, so that it can be set to it.
            generator.programs = Programs(generator.run)
        return generator.programs


def program(generator, key, make, call, compiled=kernels.compiled, draws=False):
    """A function compiled once for each key, kind of cache and set of shapes.

    Args:
        generator: `Generator`.
        key: a tuple that begins with what the program does. All that `make` reads beside the
            model, the kind of cache, and the sampler where it draws.
        make: function without arguments that gives the function to compile.
        call: `calls.Call`.
        compiled: function of that function and the model.
        draws: bool. Whether the sampler is called, which is then a part of the key.
    """
    model = generator.model
    generator.prepare()
    kept = programs_of(generator)
    key = (*key, call.cache, *([call.sampler_key] if draws else ()))
    if compiled is not kernels.compiled:
        return kept.get(key, lambda: compiled(make(), model))
    changed = getattr(call.sampler, "variables", ()) if draws else ()
    if not kernels.compiles(model):
        run = kept.get(key, lambda: compiled(make(), model, changed))
        return lambda *args: _run(run, call, draws, args)

    def run_for_shapes(*args):
        shapes = tuple((tuple(x.shape), str(x.dtype)) for x in tree.flatten(args))
        new = lambda: _Compiled(compiled(make(), model, changed), key[0])  # noqa: E731
        return _run(kept.get((key, shapes), new), call, draws, args)

    return run_for_shapes


def _run(run, call, draws, args):
    if not draws:
        with compiling.told(call.verbose):
            return run(*args)
    with compiling.told(call.verbose), taking_turns(call.sampler_key[0]):
        return run(*args)


class _Compiled:
    """A program for one set of shapes, which other threads wait for while it is compiled."""

    def __init__(self, run, what):
        self._run, self._what = run, what
        self._lock, self._is_new = threading.Lock(), True

    def __call__(self, *args):
        if self._is_new:
            with self._lock:
                if self._is_new:
                    with compiling.compiling(self._what, compiling.sizes_of(args)):
                        outputs = self._run(*args)
                    self._is_new = False
                    return outputs
        return self._run(*args)


def remembered(generator, rows, call):
    """What the decoder sees of the encoder's side of `batching.Rows`."""
    backbone = generator.model.backbone
    make = lambda: lambda _, x: decoding.remember(backbone, x, *call.cache)  # noqa: E731
    return program(generator, ("encode",), make, call)((), to_devices(batching.pad_encoder(rows)))


def start(generator, inputs, call, ahead=0):
    """What the encoder leaves, and the first `DecodeState`, of a batch of prompts.

    Args:
        generator: `Generator`.
        inputs: dict of the tensors that `batching.pad_rows` makes.
        call: `calls.Call`.
        ahead: as `decoding.prefill` has it.
    """
    backbone = generator.model.backbone

    def start(_, inputs):
        memory = decoding.remember(backbone, inputs, *call.cache)
        options = {"ahead": ahead, "cache_dtype": call.cache_dtype}
        cache, _ = decoding.prefill(backbone, inputs, memory, **options)
        prompt, room = inputs["decoder_token_ids"], inputs["new_token_ids"]
        return memory, first_state(prompt, room, caches.folded(cache))

    return program(generator, ("the start of a text", ahead), lambda: start, call)((), inputs)


def step_of(generator, memory, call, is_folded=True, head=None):
    """The `step` of a `Loop`.

    Args:
        generator: `Generator`.
        memory: what `decoding.remember` gave.
        call: `calls.Call`.
        is_folded: bool. Whether the loop carries the cache folded.
        head: `screening.Head`, or `None` for all logits.
    """
    model = generator.model
    # A sampler that compares states squares them.
    states_dtype = sum_dtype(model.backbone.decoder.compute_dtype)

    def read(memory, ids, cache, index):
        cache = caches.unfolded(cache) if is_folded else cache
        hidden, cache = decoding.step(model.backbone, memory, ids, cache, index)
        return hidden, caches.folded(cache) if is_folded else cache

    def step(memory, ids, cache, broken, index):
        hidden, cache = read(memory, ids, cache, index)
        logits = model.logits(hidden)
        return logits, ops.cast(hidden, states_dtype), cache, finite.watched(broken, logits, index)

    key, made = ("next", is_folded, head is None), step if head is None else read
    run = program(generator, key, lambda: made, call, kernels.compiled_step)

    def step_of_state(state):
        index = ops.convert_to_tensor(state.index, dtype="int32")
        if head is None:
            found = run(memory, state.ids, state.cache, state.broken, index)
            logits, hidden, cache, broken = found
            return logits, hidden, state._replace(cache=cache, broken=broken)
        # Torch's compiler knows the sizes of all tensors, and the candidates are any number.
        hidden, cache = run(memory, state.ids, state.cache, index)
        logits, steps = head(model, hidden)
        broken, steps = finite.watched(state.broken, logits, index), state.head_steps + steps
        state = state._replace(cache=cache, broken=broken, head_steps=steps)
        return logits, ops.cast(hidden, states_dtype), state

    return step_of_state
