"""A step of decoding as one program of torch's compiler."""

import threading

import torch
from keras import tree
from torch.fx.experimental.proxy_tensor import make_fx

from keras_t5gemma2 import compiling

# Each fused operation rounds where the eager one does: half precision gives the same tokens.
_MOST_PROGRAMS = 64
_OPTIONS = {"emulate_precision_casts": True}


def compiled_step(function):
    """`function`, compiled for each set of shapes.

    Torch's own tracer reads Python, and does not get through that of Keras. Here the operations
    of one call are recorded instead, on the tensors of that call: what a step writes into its
    cache it then writes twice, which gives the same.

    Args:
        function: of nested tuples and dicts of tensors, to such. What it does must depend on
            their shapes only, and a second call with the same must give the same.
    """
    programs, lock = {}, threading.Lock()

    def run(*args):
        tensors = tree.flatten(args)
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in tensors)
        if key not in programs:
            with lock:
                if key not in programs:
                    with compiling.compiling("a step of generate", compiling.sizes_of(args)):
                        program, structure = _program(function, args, tensors)
                        outputs = program(*tensors)  # which is when torch compiles it
                    while len(programs) >= _MOST_PROGRAMS:
                        del programs[next(iter(programs))]
                    programs[key] = program, structure
                    return tree.pack_sequence_as(structure, outputs)
        program, structure = programs[key]
        return tree.pack_sequence_as(structure, program(*tensors))

    return run


def _program(function, args, tensors):
    """A program from flat tensors to flat tensors, and the structure of what it gives."""
    structures = []

    def flat(*tensors):
        outputs = function(*tree.pack_sequence_as(args, tensors))
        structures.append(tree.map_structure(lambda _: None, outputs))
        return tree.flatten(outputs)

    with torch.no_grad():
        graph = make_fx(flat)(*tensors)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return torch.compile(graph, dynamic=False, options=_OPTIONS), structures[0]
