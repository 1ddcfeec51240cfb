"""The command ``thalweg``: verbs, and what becomes of errors."""

from __future__ import annotations

import errno
import os
import sys

import typer
from safetensors import SafetensorError

from thalweg.cli.audit import audit
from thalweg.cli.compare import COMPARE_HELP, compare
from thalweg.cli.console import errors
from thalweg.cli.data import data
from thalweg.cli.export import export
from thalweg.cli.measure import MEASURES_HELP, measure
from thalweg.cli.ranks import RANKS
from thalweg.cli.report import report
from thalweg.cli.reproduce import reproduce
from thalweg.cli.study import app as study_app
from thalweg.cli.train import train
from thalweg.core.errors import DataError, ThalwegError, is_out_of_memory
from thalweg.core.imports import MissingExtraError

# Set this variable to see the traceback of an error instead of its one line.
DEBUG = "THALWEG_DEBUG"

# What the system says of a path that the user named. All else it says, of a full disk or a dead line, is no
# fault of the input.
WRONG_PATH = {
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
}

app = typer.Typer(
    name="thalweg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain: rich would turn the ":train:" of a data set into a picture of a train.
    rich_markup_mode=None,
)

app.command()(data)
app.command()(train)
app.command(epilog=MEASURES_HELP)(measure)
app.command()(audit)
app.command(epilog=COMPARE_HELP)(compare)
app.add_typer(study_app, name="study")
app.command()(report)
app.command()(export)
app.command()(reproduce)


@app.callback(
    epilog="Each command has --help with an example. Exit codes: 0 done, 1 the measurement failed, 2 bad "
    f"input. {DEBUG}=1 shows the traceback of an error."
)
def main(context: typer.Context) -> None:
    """The geometry of neural-network loss landscapes, with error bars."""
    RANKS.check_verb(context.invoked_subcommand)


def run() -> None:
    """Run the command; exit with 0 when done, 1 if the measurement failed, 2 for bad input, in one line."""
    # As under `python -m`: modules in the current folder are found for `--model module:callable`.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        with RANKS.joined():
            code = app(standalone_mode=False)
        sys.stdout.flush()  # or a full disk would show only after the exit code is chosen
    except (typer.Abort, KeyboardInterrupt):
        if RANKS.is_first:
            errors.print("thalweg: interrupted; what was finished is kept.", markup=False)
        sys.exit(130)
    except Exception as error:
        # Errors of the command line itself carry their own text and code.
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())  # type: ignore[attr-defined]
            sys.exit(2)
        code = _exit_code(error)
        if code is None or os.environ.get(DEBUG):
            raise
        _complain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _exit_code(error: Exception) -> int | None:
    """2 for bad input, 1 for a failure; None for what only a mistake of ours can raise."""
    if hasattr(error, "format_message"):
        return getattr(error, "exit_code", 2)
    if isinstance(error, OSError):
        return 2 if error.errno in WRONG_PATH else 1
    if isinstance(error, ValueError | TypeError | DataError | MissingExtraError):
        return 2
    if is_out_of_memory(error):
        return 1
    # Files of weights that cannot be read are complained of as values; this one could not be written.
    return 1 if isinstance(error, ThalwegError | SafetensorError) else None


def _complain(error: Exception) -> None:
    text = error.format_message() if hasattr(error, "format_message") else str(error)  # type: ignore[attr-defined]
    hint = f" ({DEBUG}=1 shows the traceback.)" if error.__cause__ else ""
    if is_out_of_memory(error):
        text = f"out of memory; fewer examples, a smaller --micro-batch or fewer points need less: {text}"
    words = RANKS.complaint(f"{' '.join(text.split())}{hint}")
    if words:
        errors.print(f"thalweg: {words}", markup=False, soft_wrap=True)
