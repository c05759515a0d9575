"""The `herald` command."""

from __future__ import annotations

import sys
import warnings

import typer
from jwt import InsecureKeyLengthWarning

from service import __version__
from service.cli import describe, inspect, listen, publish, serve, token
from service.settings import SettingsError

app = typer.Typer(
    name="herald",
    help="Notification push: POST an event, and every WebSocket of its user receives it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(serve.dev)
app.command(epilog=serve.settings_help())(serve.serve)
app.command()(token.token)
app.command()(publish.publish)
app.command()(listen.listen)
app.command()(inspect.inspect)
app.command()(serve.check)
app.command()(describe.openapi)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"herald {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; errors are sentences on standard error and exit status 2."""
    # Said once at the start, by the name of the setting, instead of by the library at each token.
    warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)
    try:
        app()
    except SettingsError as error:
        for problem in error.problems:
            print(f"herald: {problem}", file=sys.stderr)
        sys.exit(2)
