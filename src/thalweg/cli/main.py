"""The command ``thalweg``: verbs, and what becomes of errors."""

from __future__ import annotations

import sys

import typer

from thalweg.cli.console import errors
from thalweg.cli.data import data
from thalweg.cli.measure import measure
from thalweg.cli.reproduce import reproduce
from thalweg.cli.train import train
from thalweg.core.errors import DataError, ThalwegError

app = typer.Typer(
    name="thalweg",
    help="The geometry of neural-network loss landscapes, with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain: rich would turn the ":train:" of a data set into a picture of a train.
    rich_markup_mode=None,
)

for verb in (data, train, measure, reproduce):
    app.command()(verb)


@app.callback()
def main() -> None:
    """The geometry of neural-network loss landscapes, with error bars."""


def run() -> None:
    """Run the command; exit with 0 when done, 1 if the measurement failed, 2 for bad input, in one line."""
    try:
        code = app(standalone_mode=False)
    except (ValueError, TypeError, DataError, OSError) as error:
        _complain(error, 2)
    except ThalwegError as error:
        _complain(error, 1)
    except (typer.Abort, KeyboardInterrupt):
        errors.print("thalweg: interrupted; what was finished is kept.", markup=False)
        sys.exit(130)
    except Exception as error:
        # Errors of the command line itself carry their own text and code.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())  # type: ignore[attr-defined]
            sys.exit(2)
        _complain(error.format_message(), getattr(error, "exit_code", 2))  # type: ignore[attr-defined]
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _complain(error: object, code: int) -> None:
    text = " ".join(str(error).split())
    errors.print(f"thalweg: {text}", markup=False, soft_wrap=True)
    sys.exit(code)
