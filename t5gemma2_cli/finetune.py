"""`t5gemma2 finetune`."""

import click

from t5gemma2_cli import launch, options
from t5gemma2_cli.config_file import config_option
from t5gemma2_cli.evaluate import metrics
from t5gemma2_cli.running import call


@click.command(short_help="Train an adapter, or all weights, on rows of a file.")
@options.preset
@click.argument("data", type=click.Path())
@config_option()
@click.option("--output", required=True, type=click.Path(), help="Directory of the run.")
@options.columns
@click.option("--validation", type=click.Path(), help="File with rows to validate on.")
@click.option("--validation-split", type=float, help="Or a part of DATA, its last rows, as in 0.1.")
@options.limit
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--learning-rate", type=float, help="By default one for the width of the model.")
@click.option("--full", is_flag=True, help="Train all weights, in place of an adapter (LoRA).")
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Of LoRA.")
@click.option("--alpha", type=float, help="Of LoRA; by default the rank.")
@click.option("--dropout", type=float, default=0.0, show_default=True, help="Of LoRA.")
@click.option(
    "--target", multiple=True, help="Of LoRA: query, value, ...; by default all seven projections."
)
@click.option("--rslora", is_flag=True, help="LoRA scaled for high ranks.")
@click.option("--dora", is_flag=True, help="LoRA with lengths of columns of their own.")
@click.option("--adapter", type=click.Path(), help="Go on with this adapter.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory for more time.")
@options.model
@metrics
@click.option(
    "--predictions",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Rows to generate answers for before training and after each epoch.",
)
@options.max_new_tokens
@click.option(
    "--save-steps", type=click.IntRange(1), help="Save the state after so many steps, too."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="On this machine, with a GPU or a share of the CPU each (JAX, PyTorch).",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the directory.")
@options.as_json
@options.quiet
@options.backend
def finetune(backend, processes, **chosen):
    """Train the model PRESET on the rows of DATA, a JSONL, CSV, TSV or Parquet file.

    A row has encoder_text, decoder_text and, maybe, images; --column reads columns of other names.
    By default an adapter is trained (LoRA). All that comes of it is in the directory --output: the
    options (config.toml), checkpoints/, history.csv and curves.png, predictions/ before training
    and after each epoch, adapter.safetensors (or model/), summary.json and a model card.

    \b
    t5gemma2 finetune t5gemma2_tiny train.jsonl --output run --epochs 5
    t5gemma2 finetune t5gemma2_270m_270m qa.csv --output run --column question=encoder_text \\
        --column answer=decoder_text --validation-split 0.1 --dtype bfloat16
    t5gemma2 finetune --config finetune.toml
    t5gemma2 finetune --config run/config.toml --resume

    \b
    # finetune.toml
    preset = "t5gemma2_tiny"
    data = "qa.csv"
    output = "run"
    rank = 8
    [columns]
    question = "encoder_text"
    answer = "decoder_text"

    Ctrl-C leaves the state of the last epoch (or of --save-steps), and --resume goes on from it.

    --processes N starts N processes that share each batch (torchrun on PyTorch); it is the rows of
    all of them that --batch-size counts. On several machines torchrun, or SLURM, starts them:
    docs/howto/many_machines.md.
    """
    if processes > 1:
        launch.together(processes, backend)
    call("finetune", backend, **chosen)
