"""The command `t5gemma2`: its names, options and help.

What a command does is in `keras_t5gemma2/cli/`, in a file of the same name. Nothing here imports
Keras or a backend before a command needs it, so that help comes at once.

A new command is a file here that declares it, a line in `COMMANDS`, and a file there with `run`.
"""

import click

from t5gemma2_cli.benchmark import benchmark
from t5gemma2_cli.chat import chat
from t5gemma2_cli.convert import convert
from t5gemma2_cli.doctor import doctor
from t5gemma2_cli.embed import embed
from t5gemma2_cli.evaluate import evaluate
from t5gemma2_cli.export import export
from t5gemma2_cli.finetune import finetune
from t5gemma2_cli.generate import generate
from t5gemma2_cli.plan import plan
from t5gemma2_cli.running import run_command
from t5gemma2_cli.serve import serve

# In the order of the help.
COMMANDS = (
    *(generate, chat, embed, serve, evaluate, finetune, convert, plan, export, benchmark, doctor),
)


class _InOrder(click.Group):
    """A group whose help lists its commands as they were added, not by the alphabet."""

    def list_commands(self, ctx):
        return list(self.commands)


@click.group(
    cls=_InOrder, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(None, "-V", "--version", package_name="keras-t5gemma2")
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
def group(debug):
    """T5Gemma 2: text and images in, text out, on JAX, TensorFlow or PyTorch.

    \b
    t5gemma2 generate t5gemma2_tiny "Spell 4268 in German."
    t5gemma2 COMMAND --help

    The model t5gemma2_tiny is part of the package: with it, every command runs without a download.
    """


def main(arguments=None, restarts=False):
    """Runs the command.

    Args:
        arguments: list of strings; by default those of the process.
        restarts: bool. Whether the process may start anew with another backend than that which
            Keras has already been imported with.

    Returns:
        The exit status: 0; 1 for an error, which stderr tells; 2 for wrong usage; 130 where the
        command was interrupted.
    """
    return run_command(group, arguments, restarts)
