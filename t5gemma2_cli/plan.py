"""`t5gemma2 plan`."""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call

# A test compares these with what `keras_t5gemma2` knows.
MODES = ("inference", "fit", "lora")
DEVICES = ("cpu", "cuda", "gpu", "rocm", "tpu")


@click.command(short_help="Say what models take of a device's memory.")
@click.argument("models", nargs=-1)
@click.option(
    "--mode", type=click.Choice(MODES), multiple=True, help="By default all three. Again for each."
)
@click.option("--memory", type=float, default=16.0, show_default=True, help="GiB of a device.")
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    help="Whose kernels of attention to name; by default this one's.",
)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option(
    "--batch-size", type=int, default=1, show_default=True, help="Rows, of all devices together."
)
@click.option("--encoder-length", type=int, default=512, show_default=True, help="Tokens of a row.")
@click.option("--decoder-length", type=int, default=128, show_default=True, help="Tokens of a row.")
@click.option("--images", type=int, default=0, show_default=True, help="Images of a row.")
@click.option(
    "--mesh",
    type=int,
    nargs=2,
    default=(1, 1),
    show_default=True,
    help="Devices of each axis.",
    metavar="DATA MODEL",
)
@click.option("--fsdp", is_flag=True, help="Shard over the data axis what is whole on it.")
@click.option("--optimizer", default="adam", show_default=True, help="As Keras names it.")
@click.option("--rank", type=int, default=16, show_default=True, help="Of the adapters.")
@click.option(
    "--checkpointing/--no-checkpointing",
    "gradient_checkpointing",
    default=True,
    show_default=True,
    help="Keep one hidden state per layer in training, and make the others again.",
)
@click.option(
    "--cross-attention-cache", default="auto", show_default=True, help="auto, projected or shared."
)
@click.option("--head", default="auto", show_default=True, help="auto, exact or screened.")
@click.option(
    "--machines",
    is_flag=True,
    help="Instead: what fits v5e-1 to H100, with which mesh, dtype, cache and batch, of text.",
)
@click.option("--text-only", is_flag=True, help="Without the vision tower.")
@options.as_json
@options.backend
def plan(backend, **chosen):
    """Say what MODELS take of each device's memory, and whether that fits. Nothing is loaded.

    \b
    t5gemma2 plan                                       # the published models
    t5gemma2 plan t5gemma2_4b_4b --mode lora --memory 24 --encoder-length 4096 --batch-size 8
    t5gemma2 plan t5gemma2_4b_4b --mode fit --mesh 2 4 --fsdp --memory 80 --json
    t5gemma2 plan --machines
    """
    call("plan", backend, **chosen)
