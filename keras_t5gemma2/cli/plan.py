"""What models take of each device's memory, and whether that fits. Nothing is loaded."""

import dataclasses
import json
from types import SimpleNamespace

from keras_t5gemma2.planning.plan import largest_batch, plan
from keras_t5gemma2.planning.weights import published_models
from keras_t5gemma2.planning.work import MODES, Work

_GIB = 1 << 30


def run(out, models=(), mode=(), as_json=False, **chosen):
    """Prints a row for each model and each mode to `out`.

    Args:
        out: text file.
        models: names, directories or handles; by default the published models.
        mode: names among `MODES`; by default all.
        as_json: bool. Whether to print JSON, of numbers of bytes.
        **chosen: `memory` in GiB, `text_only`, and fields of `Work`.
    """
    options = SimpleNamespace(**chosen)
    options.mesh = tuple(options.mesh)
    rows = [
        _row(model, one, options) for model in models or published_models() for one in mode or MODES
    ]
    print(json.dumps(rows, indent=2) if as_json else as_table(rows, options), file=out)


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
