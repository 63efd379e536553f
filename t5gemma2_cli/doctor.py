"""`t5gemma2 doctor`: what is installed, what works, and what would be fast here.

Each backend is asked in a process of its own: none of them must work for the others to be seen.
"""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import BACKENDS, configured_backend


@click.command(short_help="Say what is installed, what works, and what would be fast.")
@click.option("--online", is_flag=True, help="Ask the Hugging Face hub whose token it is.")
@click.option(
    "--timeout", type=float, default=120.0, show_default=True, help="Seconds for each backend."
)
@options.as_json
@click.pass_context
def doctor(ctx, online, timeout, as_json):
    """Say what is installed, what works, and what would be fast on this machine.

    \b
    t5gemma2 doctor
    t5gemma2 doctor --json

    The exit status is 1 where the backend that Keras would take does not work.
    """
    from t5gemma2_cli import diagnosis

    found = diagnosis.examine(BACKENDS, configured_backend(), online, timeout)
    if as_json:
        import json

        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(diagnosis.as_text(found))
    ctx.exit(0 if found["works"] else 1)
