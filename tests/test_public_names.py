"""What a reader of rulesets/ and agent/ can count on: each public name says what it is for, and files stay short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 300  # lines of a file; one that outgrows it becomes a folder
# Words that say nothing about what a thing does.
EMPTY_WORDS = frozenset({"manager", "managers", "helper", "helpers", "handler", "handlers", "util", "utils"})

type_of_def = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def definitions(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, type_of_def]]:
    """Classes and functions of a module and methods of its classes, dotted; not what is local to a function."""
    for node in tree.body:
        if isinstance(node, type_of_def):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}{node.name}.")


def is_public(dotted: str) -> bool:
    return not any(part.startswith("_") for part in dotted.split("."))


def is_overload(node: type_of_def) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def unannotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The arguments without a type, and `return`."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    bare = [each.arg for each in arguments if each and each.annotation is None and each.arg not in ("self", "cls")]
    return bare if node.returns else [*bare, "return"]


def complaints(source: str) -> list[str]:
    """What a reader would miss in one module, each with its line."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["1: the module has no docstring"]
    for dotted, node in definitions(tree):
        if not is_public(dotted) or is_overload(node):
            continue
        if not ast.get_docstring(node):
            found.append(f"{node.lineno}: {dotted} has no docstring")
        if not isinstance(node, ast.ClassDef) and (bare := unannotated(node)):
            found.append(f"{node.lineno}: {dotted} has no type for {', '.join(bare)}")
    return found


def empty_words(text: str) -> set[str]:
    """The words of a CamelCase or snake_case name that say nothing."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)} & EMPTY_WORDS


@pytest.mark.parametrize("path", sources("rulesets", "agent"), ids=name)
def test_public_names_are_explained_and_typed(path: Path) -> None:
    assert not complaints(path.read_text())


@pytest.mark.parametrize("path", sources("rulesets", "agent", "tests", "netns_tests", "bench"), ids=name)
def test_files_are_short_and_names_say_something(path: Path) -> None:
    source = path.read_text()
    names = [path.stem, *(dotted for dotted, _ in definitions(ast.parse(source)))]
    assert not [each for each in names if empty_words(each)]
    assert len(source.splitlines()) <= LONGEST


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", ["1: the module has no docstring"]),
        ('"""M."""\nclass Plan: ...', ["2: Plan has no docstring"]),
        ('"""M."""\ndef f(a, *b, c: int) -> int:\n    "F."', ["2: f has no type for a, b"]),
        ('"""M."""\nclass Plan:\n    "P."\n    async def f(self):\n        "F."', ["4: Plan.f has no type for return"]),
        ('"""M."""\ndef _f(a): ...\nclass _P:\n    def f(self): ...', []),
        ('"""M."""\nclass P:\n    "P."\n    def __eq__(self, other): ...', []),
    ],
)
def test_what_is_missing_is_named(source: str, expected: list[str]) -> None:
    assert complaints(source) == expected


def test_empty_words_are_found_in_any_spelling() -> None:
    assert [each for each in ("PodManager", "net_utils", "helper", "HTTPHandler") if not empty_words(each)] == []
    assert [each for each in ("Handle", "utilisation", "managed", "handles") if empty_words(each)] == []
