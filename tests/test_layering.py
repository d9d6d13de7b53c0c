"""Imports go one way: rulesets under agent, and inside agent from errors up to the command line."""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each room of agent/ may import: the lines above its own, and itself. Rooms on one line do not import each other.
# A room is a folder or a file of agent/. One that is missing here fails the test.
ORDER = (
    ("errors", "words"),
    ("targets",),
    ("kernel",),
    ("state",),
    ("drift",),
    ("guards", "place", "against", "rivals"),
    ("observed", "streams"),
    ("comparison", "flows", "trace"),
    ("enrol",),
    ("removal",),
    ("reconcile", "inspection", "migration"),
    ("report",),
    ("mesh", "observe"),
    ("sources",),
    ("local_api",),
    ("cni",),
    ("confirm", "pods", "doctor"),
    ("explain",),
    ("daemon",),
    ("cli",),
    ("__main__",),
)

# rulesets/ takes values and returns values, so it gets only what reaches no file, clock, chance, process or network.
PURE = frozenset(
    "__future__ abc collections dataclasses difflib enum errno functools hashlib heapq ipaddress itertools json math"
    " netaddr operator re rulesets string struct textwrap tomllib types typing".split()
)
IMPURE_BUILTINS = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"})

# Who speaks to the kernel, by the library that does it.
ONLY_IN = {"nftables": "kernel", "ctypes": "kernel"}

# A process costs 20 ms and a fork under threads can hang, so each module that starts one has its reason here.
MAY_START_PROCESSES = {
    "agent.kernel.iptables": "iptables' programs are the one stable interface to its rules; nothing else needs them",
    "agent.flows.listener": "decoding events takes a core at times, and the agent has one interpreter; started once",
    "agent.confirm": "the guard that takes a change back has to outlive the command, and the connection it came by",
}
PROCESS_MODULES = frozenset({"multiprocessing", "pty", "subprocess"})
PROCESS_CALLS = frozenset(
    "create_subprocess_exec create_subprocess_shell execl execle execlp execlpe execv execve execvp execvpe fork"
    " forkpty popen posix_spawn posix_spawnp ProcessPoolExecutor spawnl spawnle spawnlp spawnlpe spawnv spawnve"
    " spawnvp spawnvpe subprocess_exec subprocess_shell".split()
)

RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def module_name(path: Path) -> str:
    """agent/kernel/__init__.py is agent.kernel."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of agent.kernel.netns is kernel; that of agent itself has no name."""
    return module.partition(".")[2].partition(".")[0]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every import with its line, those inside functions and `if TYPE_CHECKING` included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom(level=0, module="agent"):  # from agent import errors: what counts is errors
                yield from ((node.lineno, f"agent.{alias.name}") for alias in node.names)
            case ast.ImportFrom():
                yield node.lineno, "." * node.level + (node.module or "")
            case ast.Call(func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module")):
                yield node.lineno, "(a computed name)"
            case _:
                pass


def process_starts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every mention of what starts a process: by module, by name, or by attribute whatever it is an attribute of."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if found := PROCESS_MODULES & {
                alias.name.partition(".")[0] for alias in names
            }:
                yield node.lineno, min(found)
            case ast.ImportFrom(module=str(module), names=names):
                if found := (PROCESS_MODULES & {module.partition(".")[0]}) | (
                    PROCESS_CALLS & {alias.name for alias in names}
                ):
                    yield node.lineno, min(found)
                if module == "os" and "system" in {alias.name for alias in names}:
                    yield node.lineno, "os.system"
            case ast.Attribute(attr=name) if name in PROCESS_CALLS:
                yield node.lineno, name
            case ast.Attribute(value=ast.Name(id="os"), attr="system"):
                yield node.lineno, "os.system"
            case _:
                pass


def wrong_import(module: str, imported: str) -> str | None:
    """Why this module may not import that one, or None."""
    package = imported.partition(".")[0]
    if not package:
        return "relative import: write the whole path"
    if imported.startswith("("):
        return "import of a computed name: this test can't read it"
    if package in ("tests", "netns_tests", "bench"):
        return f"imports {imported}, which is not shipped"
    if module.partition(".")[0] == "rulesets":
        return None if package in PURE else f"imports {imported}: rulesets is pure"
    room = room_of(module)
    if package in ONLY_IN and room != ONLY_IN[package]:
        return f"imports {imported}: only agent/{ONLY_IN[package]} does"
    if package != "agent":
        return None
    other = room_of(imported)
    if other not in RANK:
        return f"imports {imported}, which has no place in ORDER"
    if other != room and RANK[other] >= RANK.get(room, -1):
        return f"imports {imported}: {other} stands above or beside {room or 'agent itself'}"
    return None


def violations(module: str, source: str) -> list[str]:
    """Every breach in one module's source, as `line: what`."""
    tree = ast.parse(source)
    found = [(line, why) for line, imported in imports(tree) if (why := wrong_import(module, imported))]
    if module not in MAY_START_PROCESSES:
        found += [(line, f"{what} starts a process: see MAY_START_PROCESSES") for line, what in process_starts(tree)]
    if module.partition(".")[0] == "rulesets":
        names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
        found += [(node.lineno, f"{node.id}(): rulesets is pure") for node in names if node.id in IMPURE_BUILTINS]
    elif room_of(module) not in RANK and module != "agent":
        found.append((1, f"{module} has no place in ORDER"))
    return [f"{line}: {why}" for line, why in sorted(found)]


def modules() -> list[Path]:
    return sorted(chain(ROOT.glob("rulesets/**/*.py"), ROOT.glob("agent/**/*.py")))


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    broken = [f"{path.relative_to(ROOT)}:{each}" for each in violations(module_name(path), path.read_text())]
    assert not broken, "\n" + "\n".join(broken)


def test_every_exception_is_still_needed() -> None:
    """A module that is gone, or starts nothing any more, leaves the list."""
    starting = {module_name(path) for path in modules() if any(process_starts(ast.parse(path.read_text())))}
    assert set(MAY_START_PROCESSES) <= starting


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("rulesets.pod", "import agent.errors", "1: imports agent.errors: rulesets is pure"),
        ("rulesets.pod", "import os", "1: imports os: rulesets is pure"),
        ("rulesets.pod", "from datetime import datetime", "1: imports datetime: rulesets is pure"),
        ("rulesets.nft.parse", "def f():\n    import time", "2: imports time: rulesets is pure"),
        ("rulesets.pod", "text = open('x').read()", "1: open(): rulesets is pure"),
        ("agent.errors", "from agent import kernel", "1: imports agent.kernel: kernel stands above or beside errors"),
        ("agent.kernel.netns", "from agent.reconcile import x", "1: imports agent.reconcile: reconcile stands above"),
        ("agent.kernel.netns", "def f():\n    import agent.daemon", "2: imports agent.daemon: daemon stands above"),
        ("agent.kernel", "if TYPE_CHECKING:\n    from agent import cli", "2: imports agent.cli: cli stands above"),
        (
            "agent.enrol",
            "from agent.removal import x",
            "1: imports agent.removal: removal stands above or beside enrol",
        ),
        ("agent", "from agent.errors import x", "1: imports agent.errors: errors stands above or beside agent itself"),
        ("agent.daemon", "from agent.cli.text import x", "1: imports agent.cli.text: cli stands above"),
        ("agent.kernel", "from . import netns", "1: relative import"),
        ("agent.kernel", "from .netns import x", "1: relative import"),
        ("agent.cli", "importlib.import_module('agent.daemon')", "1: import of a computed name"),
        ("agent.new", "x = 1", "1: agent.new has no place in ORDER"),
        ("agent.cli", "from agent import new", "1: imports agent.new, which has no place in ORDER"),
        ("agent.observe", "import nftables", "1: imports nftables: only agent/kernel does"),
        ("agent.daemon", "from netns_tests.world import x", "1: imports netns_tests.world, which is not shipped"),
        ("agent.daemon", "import subprocess", "1: subprocess starts a process"),
        ("agent.daemon", "from os import fork", "1: fork starts a process"),
        ("agent.daemon", "import os as o\no.execvp('nft', [])", "2: execvp starts a process"),
        ("agent.daemon", "os.system('nft')", "1: os.system starts a process"),
        ("agent.daemon", "await asyncio.create_subprocess_exec('nft')", "1: create_subprocess_exec starts a process"),
    ],
)
def test_a_breach_is_named(module: str, source: str, complaint: str) -> None:
    assert [each[: len(complaint)] for each in violations(module, source)] == [complaint]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rulesets.pod", "from collections.abc import Iterator\nfrom rulesets.model import Rule"),
        ("agent.kernel.netns", "import os\nfrom agent.kernel.nftables import x\nfrom rulesets import nft"),
        ("agent.observe.metrics", "from agent.reconcile import x"),
        ("agent.cli.text", "def f():\n    from agent import daemon"),
        ("agent.confirm", "import subprocess"),
        ("agent.daemon", "import platform\nplatform.system()"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(module, source) == []
