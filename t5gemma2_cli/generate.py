"""`t5gemma2 generate`."""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call


@click.command(short_help="Write text for texts and images.")
@options.preset
@click.argument("texts", nargs=-1)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(),
    help="Of the one text, in order; its places are <start_of_image> in the text, or before it.",
)
@click.option("--decoder-text", help="What each answer starts with.")
@click.option("--input", "data", type=click.Path(), help="JSONL, CSV, TSV or Parquet with rows.")
@options.columns
@options.limit
@click.option("--output", type=click.Path(), help="File for a line of JSON per row.")
@options.sampler
@options.drawing
@click.option("--beams", type=click.IntRange(1), help="Of beam search.")
@options.seed
@click.option("--num-return-sequences", type=click.IntRange(1), default=1, help="Of each row.")
@options.max_new_tokens
@options.batch_size
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Show a single answer as it is written; by default on a terminal.",
)
@options.model
@options.adapter
@options.as_json
@options.quiet
@options.backend
def generate(backend, **chosen):
    """Write text for texts and images, with the model PRESET.

    PRESET is all that from_preset takes: a name such as t5gemma2_270m_270m, hf://org/repo, or a
    directory. Each of TEXTS is a row of its own; "-" reads one row from each line of stdin.

    \b
    t5gemma2 generate t5gemma2_tiny "Spell 4268 in German." "Write 2026-12-17 in Hindi."
    t5gemma2 generate t5gemma2_tiny "Which number is this?" --image seven.png
    t5gemma2 generate t5gemma2_tiny --input rows.csv --column question=encoder_text \\
        --output answers.jsonl
    t5gemma2 generate PRESET "Once upon a time" --top-p 0.9 --seed 1 --num-return-sequences 3

    Answers go to stdout, a line each; with --json or --output a line of JSON for each row, with
    its number and its text. Paths of images in a file are relative to that file.
    """
    call("generate", backend, **chosen)
