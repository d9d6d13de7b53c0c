"""Files and folders of manifests, and selectors, read within bounds. The only part of this room that reads files."""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.errors import ConfigError
from agent.sources.kubernetes.facts import FieldError
from agent.sources.kubernetes.selectors import Enablement, enablement_of
from agent.sources.kubernetes.workloads import Manifests, Place, Problem, manifests_of
from agent.sources.kubernetes.yaml_text import Document, YamlError, documents

SUFFIXES = (".yaml", ".yml", ".json")
STANDARD_INPUT = Path("-")
LARGEST = 32 << 20  # bytes of one file
MOST_FILES = 20_000


def are_manifests(path: Path) -> bool:
    """Tell whether a path is one of manifests: a folder, a file with their suffix, or ``-`` for standard input."""
    return path == STANDARD_INPUT or path.suffix.lower() in SUFFIXES or path.is_dir()


def read(paths: Iterable[Path], *, namespace: str = "default") -> Manifests:
    """Return what files and folders say; of a folder, and of all in it, the files with a suffix of manifests.

    A document that can't be read becomes a problem, and so does the rest of its file. Raises `ConfigError` for a path
    that isn't there, can't be read or is too large, and for a folder without manifests.
    """
    problems: list[Problem] = []
    found = manifests_of(_documents(paths, problems), namespace=namespace)
    return Manifests(
        workloads=found.workloads,
        namespaces=found.namespaces,
        others=found.others,
        problems=(*problems, *found.problems),
    )


def _documents(paths: Iterable[Path], problems: list[Problem]) -> Iterator[tuple[str, Document]]:
    for path in paths:
        for file in _files(path):
            name = "standard input" if file == STANDARD_INPUT else str(file)
            text = text_of(file)
            number = 0
            try:
                for document in documents(text):
                    number = document.number
                    yield name, document
            except YamlError as error:
                rendered = "; render the chart first: `helm template . | weir render -f -`" if "{{" in text else ""
                place = Place(file=name, document=number + 1, line=error.line)
                problems.append(Problem(place=place, reason=f"{error.reason}{rendered}"))


def enablement(text: str, where: str) -> tuple[Enablement, ...]:
    """Return the selectors of a YAML list, as Istio's agent and chart take them. Raises `ConfigError`."""
    try:
        found = list(documents(text))
        if len(found) != 1:
            raise ConfigError(f"{where}: holds {len(found)} documents, and wants one list")
        return enablement_of(found[0].value, "selectors")
    except (FieldError, YamlError) as error:
        raise ConfigError(f"{where}: {error}") from None


def text_of(path: Path) -> str:
    """Return a file's text, or that of standard input, which may be a pipe. Raises `ConfigError`."""
    try:
        if path == STANDARD_INPUT:
            content = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(content) > LARGEST:
        raise ConfigError(f"{path}: is larger than {LARGEST >> 20} MB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def _files(path: Path) -> list[Path]:
    """Return the files that a path means, in a stable order. Hidden ones, and what is no regular file, are left out."""
    if path == STANDARD_INPUT or not path.is_dir():
        return [path]
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise ConfigError(f"{error.filename}: {error.strerror or error}")

    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix.lower() in SUFFIXES and not name.startswith(".") and _is_regular(file):
                found.append(file)
        if len(found) > MOST_FILES:
            raise ConfigError(f"{path}: holds more than {MOST_FILES} manifests")
    if not found:
        raise ConfigError(f"{path}: holds no manifests", hint=f"they are files that end in {', '.join(SUFFIXES)}")
    return found


def _is_regular(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return True  # a dangling link, say: told when it is opened
