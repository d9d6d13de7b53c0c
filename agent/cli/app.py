"""The commands together, and how they end. Heavy imports stay inside them, so that help and completion are quick."""

import itertools
import json
import sys

import typer

from agent.cli import daemon as daemon_command
from agent.cli import look, write
from agent.errors import WeirError

HELP = """
Redirect the traffic of network namespaces into a proxy with nftables, and show what the kernel does with it.

A TARGET is a name from the file (--file, by default /etc/weir/weir.toml). Without one, every target of the file is
meant; --netns NAME|PATH|pid:N|host names a namespace instead.

Exit codes: 0 same, done or captured; 1 differs or not captured; 2 error.
"""

app = typer.Typer(
    name="weir",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
look.register(app)
write.register(app)
daemon_command.register(app)


@app.callback(invoke_without_command=True)
def weir(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    """Handle what stands before a command."""
    if version:
        from importlib.metadata import version as version_of

        print(f"weir {version_of('weir')}")
        raise typer.Exit(0)


weir.__doc__ = HELP


def main() -> None:
    """Run the command; errors end it with one message and code 2."""
    try:
        app()
    except WeirError as error:
        _tell(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is left in the buffer must not raise again at exit.
        sys.stdout = None
        sys.exit(0)


def _tell(error: WeirError) -> None:
    if _wants_json():
        print(json.dumps({"error": str(error), "hint": error.hint}, indent=2))
    else:
        print(f"weir: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)


def _wants_json() -> bool:
    arguments = sys.argv[1:]
    return "--output=json" in arguments or any(
        name in ("--output", "-o") and value == "json" for name, value in itertools.pairwise(arguments)
    )
