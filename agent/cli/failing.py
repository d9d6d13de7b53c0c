"""How an error is told: one message for people on standard error, or a JSON document on standard output."""

import itertools
import json
import re
import sys

from agent.errors import WeirError

_LONGEST = 400  # characters of a line: a value of a megabyte says nothing more than its beginning
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def tell(error: WeirError) -> None:
    """Print the error that ended the command."""
    if wants_json():
        print(json.dumps({"error": str(error), "hint": error.hint}, indent=2))
        return
    print(f"weir: {clean(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"  {clean(error.hint)}", file=sys.stderr)


def clean(text: str) -> str:
    """Return a text as a terminal can show it: control characters escaped, long lines cut."""
    lines = (_UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], line) for line in text.split("\n"))
    return "\n".join(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines)


def wants_json() -> bool:
    """Tell whether the command line asks for JSON, also where the rest of it can't be read."""
    arguments = list(itertools.takewhile(lambda each: each != "--", sys.argv[1:]))
    return any(each in ("--output=json", "-ojson") for each in arguments) or any(
        name in ("--output", "-o") and value == "json" for name, value in itertools.pairwise(arguments)
    )
