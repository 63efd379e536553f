"""What models take of each device's memory, and whether that fits. Nothing is loaded."""

import dataclasses
import json
from types import SimpleNamespace

import keras

from keras_t5gemma2.kernels.attention.choices import kernels_for
from keras_t5gemma2.planning.machines import table as table_of_machines
from keras_t5gemma2.planning.plan import largest_batch, plan
from keras_t5gemma2.planning.weights import config_of, published_models
from keras_t5gemma2.planning.work import MODES, Work

_GIB = 1 << 30


def run(out, models=(), mode=(), as_json=False, machines=False, **chosen):
    """Prints a row for each model and each mode to `out`.

    Args:
        out: text file.
        models: names, directories or handles; by default the published models.
        mode: names among `MODES`; by default all.
        as_json: bool. Whether to print JSON, of numbers of bytes.
        machines: bool. Whether to print the table of known machines, which asks nothing else.
        **chosen: `memory` in GiB, `text_only`, `device` as `kernels_for` has it, and fields of
            `Work`.
    """
    if machines:
        print("\n".join(table_of_machines(models or published_models())), file=out)
        return
    options = SimpleNamespace(**chosen)
    options.mesh = tuple(options.mesh)
    rows = [
        _row(model, one, options) for model in models or published_models() for one in mode or MODES
    ]
    print(json.dumps(rows, indent=2) if as_json else as_table(rows, options), file=out)
    if not as_json:
        print(f"\n{kernels_line(models or published_models(), options)}", file=out)


def _row(model, mode, options):
    fields = {field.name for field in dataclasses.fields(Work)} & set(vars(options)) - {"mode"}
    work = Work(mode, **{name: getattr(options, name) for name in fields})
    result = plan(model, work, options.text_only)
    return {
        "model": str(model),
        "mode": mode,
        **dataclasses.asdict(result),
        "total": result.total,
        "fits": result.fits(options.memory * _GIB),
        "largest_batch": largest_batch(model, work, options.memory * _GIB, options.text_only),
    }


def kernels_line(models, options):
    """The kernels of attention of the first model on a device, at each place where it attends.

    Models of other head widths may get others.
    """
    config = config_of(models[0], options.text_only)
    layers, vision = config.encoder.layers, config.vision
    windows = [attention.window for attention in layers if attention.window is not None]
    dtype = keras.DTypePolicy(options.dtype).compute_dtype
    sizes = layers[0].head_dim, min(windows, default=None), layers[0].soft_cap
    found = kernels_for(options.device, options.encoder_length, dtype, *sizes)
    del found["vision"]
    if vision is not None:
        sizes = vision.patches_per_side**2, dtype, vision.hidden_dim // vision.num_heads
        found["vision"] = kernels_for(options.device, *sizes)["vision"]
    text = ", ".join(f"{place}: {choice.kernel}" for place, choice in found.items())
    where = options.device or "this device"
    return f"Attention of {models[0]} on {where} ({keras.config.backend()}) by {text}"


def as_table(rows, options):
    """Markdown: a line for each model and mode, in GiB per device."""
    devices = (
        "a device" if options.mesh == (1, 1) else "each of {} x {} devices".format(*options.mesh)
    )
    title = (
        f"GiB of {devices} of {options.memory:g} GiB; {options.dtype}, batches of "
        f"{options.batch_size} x {options.encoder_length} tokens in, {options.decoder_length} out"
    )
    parts = ["weights", "optimizer", "gradients", "cache", "activations", "head", "total"]
    lines = [
        *(title, ""),
        f"| model | mode | {' | '.join(parts)} | fits | largest batch |",
        f"| --- | --- |{' ---: |' * len(parts)} --- | ---: |",
    ]
    for row in rows:
        numbers = " | ".join(f"{row[part] / _GIB:.2f}" for part in parts)
        fits = "yes" if row["fits"] else "no"
        lines.append(
            f"| {row['model']} | {row['mode']} | {numbers} | {fits} | {row['largest_batch']} |"
        )
    return "\n".join(lines)
