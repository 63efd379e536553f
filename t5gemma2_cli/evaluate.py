"""`t5gemma2 evaluate`."""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call

# A test compares these with what `keras_t5gemma2` knows.
METRICS = ("exact_match", "chrf", "bleu", "rouge", "anls")

metrics = click.option(
    "--metric",
    "metrics",
    type=click.Choice(METRICS),
    multiple=True,
    default=["exact_match"],
    show_default=True,
    help="Of generated answers. Again for each.",
)


@click.command(short_help="Compare answers with the references in a file.")
@options.preset
@click.argument("data", type=click.Path())
@options.columns
@options.limit
@metrics
@click.option("--loss", "with_loss", is_flag=True, help="Give loss and perplexity, too.")
@click.option("--base", metavar="PRESET", help="Compare with this model on the same rows.")
@click.option("--base-adapter", type=click.Path(), help="Adapter for --base.")
@click.option("--predictions", type=click.Path(), help="File for a line of JSON per row.")
@click.option("--beams", type=click.IntRange(1), help="Of beam search; by default greedy.")
@options.max_new_tokens
@options.batch_size
@options.model
@options.adapter
@options.as_json
@options.quiet
@options.backend
def evaluate(backend, **chosen):
    """Compare the answers of the model PRESET with the references in DATA.

    DATA is a JSONL, CSV, TSV or Parquet file. decoder_text of a row is its reference, or a list of
    several; decoder_prompt, where there is one, is what the answer starts with.

    \b
    t5gemma2 evaluate t5gemma2_tiny test.jsonl --metric exact_match --metric chrf
    t5gemma2 evaluate t5gemma2_tiny test.csv --adapter run/adapter.safetensors \\
        --base t5gemma2_tiny --predictions predictions.jsonl --json

    Ctrl-C prints the metrics of the rows so far, which --predictions has.
    """
    call("evaluate", backend, **chosen)
