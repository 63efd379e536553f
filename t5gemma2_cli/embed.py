"""`t5gemma2 embed`."""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call


@click.command(short_help="Write a vector for each text.")
@options.preset
@click.argument("texts", nargs=-1)
@click.option("--input", "data", type=click.Path(), help="JSONL, CSV, TSV or Parquet with rows.")
@options.columns
@options.limit
@click.option(
    "--output",
    type=click.Path(),
    help="File for the vectors: .jsonl, or .npy for one float32 array (rows, dimensions).",
)
@click.option("--prompt", help="What stands before each text: a name that the preset has, or text.")
@click.option(
    "--dimensions", type=click.IntRange(1), help="Keep so many numbers of a vector, the first."
)
@options.batch_size
@options.model
@options.quiet
@options.backend
def embed(backend, **chosen):
    """Write a vector for each text, with the encoder of the model PRESET.

    PRESET is all that from_preset takes. Each of TEXTS is a row of its own; "-" reads one row from
    each line of stdin. Without --output a line of JSON for each row goes to stdout, with its
    index, its text and its embedding.

    \b
    t5gemma2 embed t5gemma2_tiny "Spell 7 in Dutch." "Spell 8 in Dutch."
    t5gemma2 embed t5gemma2_tiny --input rows.csv --column question=encoder_text \\
        --output vectors.npy
    cat lines.txt | t5gemma2 embed PRESET - --prompt query --dimensions 256
    """
    call("embed", backend, **chosen)
