"""The commands together, and how they end. Heavy imports stay inside them, so that help and completion are quick."""

import contextlib
import os
import sys

import typer
from typer.exceptions import TyperException

from agent.cli import compare, look, migrate, status, top, waiting, write
from agent.cli import daemon as daemon_command
from agent.cli import doctor as doctor_command
from agent.cli import explain as explain_command
from agent.cli import trace as trace_command
from agent.cli.failing import tell
from agent.cli.manual import Group
from agent.errors import ConfigError, WeirError

_PLAINLY = {"a valid float range": "a number", "a valid int range": "a whole number"}
INTERRUPTED = 130  # as shells say it: 128 and SIGINT's number
HELP = """
Redirect the traffic of network namespaces into a proxy with nftables, and show what the kernel does with it.

The first line of an answer says how it is, the last what to do.
"""

app = typer.Typer(
    name="weir",
    cls=Group,
    help=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for module in (
    look,
    status,
    explain_command,
    top,
    trace_command,
    doctor_command,
    compare,
    waiting,
    write,
    migrate,
    daemon_command,
):
    module.register(app)


@app.callback(invoke_without_command=True)
def weir(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    """Handle what stands before a command."""
    if version:
        from importlib.metadata import version as version_of

        print(f"weir {version_of('weir')}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


weir.__doc__ = HELP


def main() -> None:
    """Run the command; an error ends it with one message and code 2."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # A name that the terminal can't write is shown escaped, rather than ending the command.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = _run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Whoever read the output has seen enough. What is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if code == INTERRUPTED:
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.flush()
        os._exit(code)  # at once: threads that wait for a daemon or a lock would be waited for otherwise
    sys.exit(code)


def _run() -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except WeirError as error:
        tell(error)
    except TyperException as error:  # a command line that can't be read
        tell(_of_command_line(error))
    except OSError as error:  # the output can't be written, say
        tell(WeirError(f"{error.filename or 'output'}: {error.strerror or error}"))
    except typer.Abort:
        return INTERRUPTED
    return 2


def _of_command_line(error: TyperException) -> WeirError:
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    command = context.command_path if context else "weir"
    text = error.format_message() if parameter is None else error.message.removeprefix("Value error, ")
    text = text.strip().rstrip(".")
    for said, plain in _PLAINLY.items():
        text = text.replace(said, plain)
    where = command.removeprefix("weir").strip()
    parts = [where, _as_given(parameter.opts) if parameter is not None else "", text[:1].lower() + text[1:]]
    return ConfigError(": ".join(filter(None, parts)), hint=f"`{command} --help` shows how")


def _as_given(names: list[str]) -> str:
    """Return an option with its value, as the command line has it."""
    for at, argument in enumerate(sys.argv):
        name, equals, value = argument.partition("=")
        if name in names:
            return f"{name} {value if equals else next(iter(sys.argv[at + 1 :]), '')!r}"
    return max(names, key=len)
