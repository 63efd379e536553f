"""`t5gemma2 convert`."""

import pathlib

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call

# A test compares these with what `keras_t5gemma2` knows.
TARGETS = {
    "transformers": "a directory that the transformers library loads",
    "ctranslate2": "a directory that CTranslate2 loads, of text alone",
    "keras": "a preset directory of this package",
    "keras-hub": "a preset directory of keras-hub's own T5Gemma 2",
}
EMBEDDINGS = ("encoder", "decoder", "mean")
ADAPTERS = ("merge", "peft")


@click.command(short_help="Write a model in another format.")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--to",
    type=click.Choice(list(TARGETS)),
    default="transformers",
    show_default=True,
    help="; ".join(f"{name}: {about}" for name, about in TARGETS.items()) + ".",
)
@click.option("--dtype", type=click.Choice(options.DTYPES), help="By default that of the source.")
@click.option("--shard-size", default="5GB", show_default=True, help="Of a file, as in 2GB.")
@click.option("--text-only", is_flag=True, help="Leave the vision tower out.")
@click.option("--decoder", help="Gemma 3 for the decoder, where it is another one.")
@click.option(
    "--embeddings",
    type=click.Choice(EMBEDDINGS),
    help="Which of the two tables of a preset of keras-hub, where they differ.",
)
@click.option(
    "--adapter", type=click.Path(path_type=pathlib.Path), help="File, or directory of peft."
)
@click.option(
    "--adapters",
    type=click.Choice(ADAPTERS),
    default="merge",
    show_default=True,
    help="For transformers: into the weights, or beside them in the format of peft.",
)
@click.option("--dry-run", is_flag=True, help="List the tensors, write nothing.")
@options.as_json
@options.quiet
@options.backend
def convert(backend, **chosen):
    """Write the model SOURCE in another format to the directory TARGET.

    SOURCE is what from_preset takes, or a Gemma 3 (a directory or a GGUF file), both of whose
    stacks then start from it. TARGET must not be there yet, and appears once it is whole.

    \b
    t5gemma2 convert hf://google/t5gemma-2-270m-270m t5gemma2 --to keras --dtype bfloat16
    t5gemma2 convert my_preset my_checkpoint --to transformers --shard-size 2GB
    t5gemma2 convert gemma-3-270m.gguf adapted --to transformers --dry-run
    """
    call("convert", backend, **chosen)
