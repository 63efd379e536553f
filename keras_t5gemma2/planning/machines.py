"""What models can do on machines that are not at hand: with which mesh, dtype, cache and batch."""

import dataclasses
import math
from typing import NamedTuple

from keras_t5gemma2.planning.plan import largest_batch
from keras_t5gemma2.planning.weights import config_of
from keras_t5gemma2.planning.work import Work
from keras_t5gemma2.registry import presets

_GIB = 1 << 30
# Of a device's memory, what the runtime takes and its allocator cannot use.
_LEFT_ALONE = 0.1


class Machine(NamedTuple):
    """Devices of one kind.

    Args:
        devices: int.
        memory: float. GiB of each.
        has_bfloat16: bool. Whether it computes in bfloat16; in float16 otherwise.
    """

    devices: int
    memory: float
    has_bfloat16: bool = True


MACHINES = {
    "v5e-1": Machine(1, 16),
    "v5e-4": Machine(4, 16),
    "v5e-8": Machine(8, 16),
    "v6e-8": Machine(8, 32),
    "T4": Machine(1, 15, has_bfloat16=False),
    "L4": Machine(1, 22.5),
    "A100-40": Machine(1, 40),
    "A100-80": Machine(1, 80),
    "H100": Machine(1, 80),
}
# What is done, as fields of `Work`.
TASKS = {
    "generate, 8K": {"mode": "inference", "encoder_length": 8192, "decoder_length": 256},
    "generate, 131K": {"mode": "inference", "encoder_length": 131_072, "decoder_length": 256},
    "LoRA, 2K": {"mode": "lora", "encoder_length": 2048, "decoder_length": 512},
    "full training, 2K": {"mode": "fit", "encoder_length": 2048, "decoder_length": 512},
}


class Choice(NamedTuple):
    """How a machine does a task.

    Args:
        batch: int. The most rows at a time, of all devices together; 0 where nothing fits.
        work: `Work` of that batch, or `None`.
    """

    batch: int
    work: Work | None


def best(model, task, machine):
    """The `Choice` with the largest batch, and of equal ones that with the simplest mesh and cache.

    A tenth of the memory is left alone.

    Args:
        model: as `plan` has it; of text only.
        task: name of `TASKS`.
        machine: name of `MACHINES`.

    Example:

    >>> found = best("t5gemma2_4b_4b", "full training, 2K", "v5e-1")
    >>> found.batch
    0
    >>> best("t5gemma2_270m_270m", "LoRA, 2K", "T4").work.dtype
    'mixed_float16'
    """
    config, of = config_of(model, text_only=True), MACHINES[machine]
    memory = (1 - _LEFT_ALONE) * of.memory * _GIB
    found = Choice(0, None)
    for work in _ways(config, TASKS[task], of):
        batch = largest_batch(config, work, memory)
        if batch > found.batch:
            found = Choice(batch, dataclasses.replace(work, batch_size=batch))
    return found


def _ways(config, fields, machine):
    """The `Work`s to choose among, the simplest first."""
    is_training = fields["mode"] != "inference"
    dtype = "bfloat16" if machine.has_bfloat16 else "mixed_float16" if is_training else "float16"
    heads = min(a.num_heads for stack in config.stacks.values() for a in stack.layers)
    for parts in range(1, min(heads, machine.devices) + 1):
        if machine.devices % parts or heads % parts:
            continue
        mesh = (machine.devices // parts, parts)
        for fsdp in (False, True) if is_training and mesh[0] > 1 else (False,):
            for cache in ("auto",) if is_training else ("projected", "shared"):
                yield Work(**fields, dtype=dtype, mesh=mesh, fsdp=fsdp, cross_attention_cache=cache)


def table(models):
    """Lines of Markdown: a row for each model, task and machine."""
    yield "| model | task | machine | mesh | dtype | cache | largest batch |"
    yield "| --- | --- | --- | --- | --- | --- | ---: |"
    for model in models:
        row = presets.get(str(model), {}).get("metadata", {})
        most = row.get("encoder_context_length", math.inf)
        model_tasks = [task for task, fields in TASKS.items() if fields["encoder_length"] <= most]
        for task in model_tasks:
            for machine in MACHINES:
                batch, work = best(model, task, machine)
                if work is None:
                    yield f"| {model} | {task} | {machine} | does not fit | | | 0 |"
                    continue
                mesh = "{} x {}".format(*work.mesh) + (", FSDP" if work.fsdp else "")
                cache = work.cross_attention_cache if work.mode == "inference" else ""
                how = f"{mesh} | {work.dtype} | {cache} | {batch:,}"
                yield f"| {model} | {task} | {machine} | {how} |"
