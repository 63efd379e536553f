"""`t5gemma2 export`."""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call

FORMATS = ("tf_saved_model", "litert", "torch", "onnx", "jax")
# A test compares these with what `keras_t5gemma2` knows.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@click.command(short_help="Write a model for a runtime without Keras.")
@options.preset
@click.argument("target", type=click.Path())
@click.option(
    "--format",
    "export_format",
    type=click.Choice(FORMATS),
    help="By default what the backend writes: torch, or tf_saved_model of JAX and TensorFlow.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Rows; by default any, where it may be.")
@click.option(
    "--encoder-length", type=click.IntRange(1), help="Tokens; by default any, where it may be."
)
@click.option(
    "--decoder-length", type=click.IntRange(2), help="Tokens; by default a prompt and 256 more."
)
@click.option("--prompt-length", type=click.IntRange(1), default=1, help="Tokens of a prompt.")
@click.option(
    "--images", type=click.IntRange(0), help="Of each row; by default any, where it may be."
)
@click.option(
    "--platform",
    "platforms",
    type=click.Choice(PLATFORMS),
    multiple=True,
    help="Of --format jax: for which to make programs; by default this one's. Again for each.",
)
@click.option(
    "--strings", is_flag=True, help="Of TensorFlow: add generate, from strings to strings."
)
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    help="Of --format onnx with --quantize: 4 rounds inputs to 8 bits, too.",
)
@click.option("--dtype", type=click.Choice(options.DTYPES), help="By default Keras's, float32.")
@click.option(
    "--quantize", type=click.Choice(options.QUANTIZATIONS), help="Write weights as integers."
)
@click.option("--text-only", is_flag=True, help="Leave the vision tower out.")
@options.adapter
@options.as_json
@options.backend
def export(backend, **chosen):
    """Write the model PRESET to TARGET for a runtime without Keras and without this package.

    It is three functions, encode, prefill and step, with the cache passed in and out.
    TensorFlow writes any size; JAX any batch; LiteRT, torch and ONNX (of torch) fixed sizes.

    \b
    t5gemma2 export t5gemma2_tiny exported --backend tensorflow
    t5gemma2 export t5gemma2_tiny texts --backend tensorflow --strings
    t5gemma2 export t5gemma2_tiny exported --backend torch --batch-size 1 --encoder-length 64 \\
        --decoder-length 32 --images 0
    t5gemma2 export t5gemma2_tiny tiny.tflite --backend tensorflow --format litert \\
        --batch-size 1 --encoder-length 64 --decoder-length 32 --images 0
    t5gemma2 export t5gemma2_tiny for_tpu --backend jax --format jax --platform tpu \\
        --batch-size 1 --encoder-length 64 --decoder-length 32 --images 0
    """
    call("export", backend, **chosen)
