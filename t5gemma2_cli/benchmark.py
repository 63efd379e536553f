"""`t5gemma2 benchmark`."""

import pathlib
import shlex
import sys

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import BACKENDS

# A test compares these with what is in `benchmarks`.
WORKS = (
    *("encode", "prefill", "decode", "rows", "loop", "train", "text", "load", "first", "import"),
)
IMPLEMENTATIONS = ("ours", "ours compiled", "keras-hub", "transformers")


def _several(name, choices, default):
    return click.option(
        f"--{name}",
        type=click.Choice(choices) if isinstance(choices, (tuple, list)) else choices,
        multiple=True,
        default=default,
        show_default=True,
        help="Again for each.",
    )


@click.command(short_help="Measure time and memory, against transformers and keras-hub.")
@_several("works", WORKS, WORKS)
@_several("implementations", IMPLEMENTATIONS, IMPLEMENTATIONS)
@_several("backends", BACKENDS, BACKENDS)
@_several("dtypes", ("float32", "bfloat16"), ["float32"])
@_several("lengths", click.IntRange(1), [512, 4096, 16_384])
@_several("batches", click.IntRange(1), [1, 8])
@click.option("--long", is_flag=True, help="Encode 131072 tokens and decode, ours alone.")
@click.option("--train-length", type=int, default=2048, show_default=True, help="Encoder tokens.")
@click.option("--train-tokens", type=int, default=512, show_default=True, help="Decoder tokens.")
@click.option("--train-batch", type=int, default=2, show_default=True, help="Rows of a step.")
@click.option(
    "--layers", type=int, default=18, show_default=True, help="Of each stack; fewer: quicker."
)
@click.option("--vocabulary", type=int, default=262_144, show_default=True, help="Tokens of it.")
@click.option(
    "--repeats", type=int, default=2, show_default=True, help="Processes of each measurement."
)
@click.option("--samples", type=int, default=3, show_default=True, help="Of each process.")
@click.option(
    "--seconds", type=float, default=600, show_default=True, help="After which one is ended."
)
@click.option("--gibibytes", type=float, help="Of memory, the same; by default most of the free.")
@click.option("--machine-mebibytes", type=int, default=1024, hidden=True, help="For tests.")
@click.option("--machine-matrix", type=int, default=4096, hidden=True, help="For tests.")
@click.option(
    "--output",
    type=click.Path(path_type=pathlib.Path),
    default="benchmark",
    show_default=True,
    help="Directory for benchmark.json, benchmark.md and benchmark.png.",
)
@click.option(
    "--scratch", type=click.Path(), help="Directory for 1.6 GB of weights, which load needs."
)
@options.as_json
def benchmark(as_json, **chosen):
    """Measure the same work on this package, on transformers and on keras-hub's T5Gemma 2.

    The model has the published 270M shape and random weights. Each measurement has a process of
    its own; what is quoted is the median of all samples, with half their range. What cannot run is
    listed with the reason.

    \b
    t5gemma2 benchmark --works decode --lengths 512 --backends jax --implementations ours
    t5gemma2 benchmark --output benchmark
    t5gemma2 benchmark --long
    """
    import contextlib
    import json

    from t5gemma2_cli.benchmarks import main

    command = " ".join(["t5gemma2 benchmark", *_shown(chosen)])
    with contextlib.redirect_stdout(sys.stderr):
        found = main.run(main.Request(**chosen, command=command))
    text = json.dumps(found) if as_json else (chosen["output"] / "benchmark.md").read_text()
    click.echo(text.rstrip())


def _shown(chosen):
    """The options that are not as they are by default, to stand in the report."""
    context = click.get_current_context()
    for option in context.command.params:
        value = chosen.get(option.name)
        default = option.get_default(context)
        default = tuple(default) if option.multiple else default
        if option.hidden or value is None or value == default:
            continue
        if option.is_flag:
            yield option.opts[0]
        for item in value if option.multiple else [] if option.is_flag else [value]:
            yield f"{option.opts[0]} {shlex.quote(str(item))}"
