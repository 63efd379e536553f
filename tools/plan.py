"""Says what a model takes of each device's memory, and whether that fits. Nothing is loaded.

python tools/plan.py                                    # the published models
python tools/plan.py t5gemma2_4b_4b --mode lora --memory 24 --encoder-length 4096 --batch-size 8
python tools/plan.py t5gemma2_4b_4b --mode fit --mesh 2 4 --fsdp --memory 80 --json
"""

import argparse
import dataclasses
import json

from keras_t5gemma2.planning.plan import largest_batch, plan
from keras_t5gemma2.planning.weights import published_models
from keras_t5gemma2.planning.work import MODES, Work

_GIB = 1 << 30


def main(arguments=None):
    options = _parser().parse_args(arguments)
    rows = [
        _row(model, mode, options)
        for model in options.models or published_models()
        for mode in options.mode or MODES
    ]
    print(json.dumps(rows, indent=2) if options.json else as_table(rows, options))


def _row(model, mode, options):
    fields = {field.name for field in dataclasses.fields(Work)} & set(vars(options)) - {"mode"}
    options.mesh = tuple(options.mesh)
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
    parts = ["weights", "optimizer", "gradients", "cache", "activations", "total"]
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


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="*", help="names, directories or handles; by default the published models")
    add("--mode", nargs="*", choices=MODES, help="by default all three")
    add("--memory", type=float, default=16.0, help="GiB of a device")
    add("--dtype", default=Work.dtype)
    add("--batch-size", type=int, default=Work.batch_size, help="rows, of all devices together")
    add("--encoder-length", type=int, default=Work.encoder_length, help="tokens of a row")
    add("--decoder-length", type=int, default=Work.decoder_length, help="tokens of a row")
    add("--images", type=int, default=Work.images, help="images of a row")
    add("--mesh", type=int, nargs=2, default=Work.mesh, metavar=("DATA", "MODEL"))
    add("--fsdp", action="store_true", help="shard over the data axis what is whole on it")
    add("--optimizer", default=Work.optimizer)
    add("--rank", type=int, default=Work.rank, help="of the adapters")
    add("--no-checkpointing", dest="gradient_checkpointing", action="store_false")
    add("--cross-attention-cache", default=Work.cross_attention_cache)
    add("--text-only", action="store_true", help="without the vision tower")
    add("--json", action="store_true", help="numbers of bytes")
    return parser


if __name__ == "__main__":
    main()
