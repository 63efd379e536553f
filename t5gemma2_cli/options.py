"""Arguments and options that several commands have."""

import click

from t5gemma2_cli.running import BACKENDS

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("int8", "int4")


def joined(*options):
    """One decorator of several, in the order of the help."""

    def decorate(function):
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


preset = click.argument("preset")
backend = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="By default as Keras: KERAS_BACKEND, ~/.keras/keras.json, or tensorflow.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
quiet = click.option("--quiet", is_flag=True, help="No progress.")
batch_size = click.option("--batch-size", type=click.IntRange(1), help="Rows at a time.")
limit = click.option("--limit", type=click.IntRange(1), help="Read so many rows, the first.")
seed = click.option("--seed", type=int, help="Of all that is drawn at random.")
max_new_tokens = click.option(
    "--max-new-tokens", type=click.IntRange(1), help="New tokens of a row, at most; 256 by default."
)
columns = click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=KEY",
    callback=lambda ctx, option, values: _pairs(values),
    help="Read the column NAME as encoder_text, decoder_text or images. Again for each.",
)

# How tokens are chosen.
SAMPLERS = ("greedy", "top_k", "top_p", "random", "beam", "contrastive")
sampler = click.option(
    "--sampler",
    type=click.Choice(SAMPLERS),
    help="By default the one that the next options mean, or greedy.",
)
drawing = joined(
    click.option("--temperature", type=float, help="Of random choice."),
    click.option("--top-k", type=click.IntRange(1), help="Choose among so many tokens."),
    click.option("--top-p", type=float, help="Choose among tokens of so much probability."),
)

# Of the model that is loaded.
model = joined(
    click.option("--dtype", type=click.Choice(DTYPES), help="By default Keras's, float32."),
    click.option("--quantize", type=click.Choice(QUANTIZATIONS), help="Read weights as integers."),
    click.option("--text-only", is_flag=True, help="Leave the vision tower out."),
    click.option("--encoder-length", type=click.IntRange(1), help="Tokens of an input, at most."),
    click.option("--decoder-length", type=click.IntRange(1), help="Tokens of an output, at most."),
)
adapter = click.option(
    "--adapter",
    type=click.Path(),
    help="File of save_adapter, or directory of peft, that the model gets.",
)


def _pairs(values):
    """A dict of texts `NAME=KEY`; one that is there already, of a config file, stays."""
    if isinstance(values, dict):
        return dict(values)
    wrong = [text for text in values if "=" not in text.strip("=")]
    if wrong:
        raise click.BadParameter(f"it must be NAME=KEY, as in question=encoder_text: {wrong[0]!r}")
    return dict(text.rsplit("=", 1) for text in values)
