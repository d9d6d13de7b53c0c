"""Puts the plugin's program and its entry on the node, puts them back when others take them away, and takes them off.

The program comes first and goes last: a runtime that finds an entry without its program starts no pod. Each file is
renamed into place, so whoever reads it finds all of it, and a writer killed in between has left one of two good states.
"""

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.cni import files
from agent.cni.configurations import Configuration, configurations, is_own, refuse_istio, wrapped_name
from agent.cni.conflist import PLUGIN, chained, of_text, types, unchained, wrapped
from agent.cni.installation import Installation, ProgramError, Standing
from agent.errors import ConfigError

REST = 0.3  # seconds for a writer that has emptied or deleted a file to write it anew, before it is put back
_AT_ONCE = 5  # writers that rename their files to one path while a pass puts its own there
_KEPT_OPEN = 60.0  # seconds for which a replaced file is looked at: somebody may still be writing into it

log = logging.getLogger("weir.cni")


@dataclass(slots=True)
class _Replaced:
    """A file that had another renamed over it: open still, since whoever had it open may go on writing into it."""

    path: Path
    descriptor: int
    text: str
    until: float


class Installer:
    """One installation. A pass that is going on is waited for by whoever asks for another, or for its removal."""

    def __init__(self, wanted: Installation) -> None:
        """Remember nothing yet."""
        self.wanted = wanted
        self._entry: Mapping[str, object] = json.loads(json.dumps(wanted.entry.document()))
        self._primary: Configuration | None = None  # the last good one, as it was before Weir
        self._broken_since: float | None = None
        self._replaced: list[_Replaced] = []
        self._program_seen: tuple[object, ...] = ()
        self._changed: list[Path] = []
        self._lock = threading.Lock()

    def put(self) -> Standing:
        """Put in place what isn't; return how it stands. Raises `ConfigError`, with nothing half-done."""
        with self._lock:
            return self._put()

    def _put(self) -> Standing:
        self._changed = []
        found = configurations(self.wanted.conf_directory)
        refuse_istio(found)
        for folder in (self.wanted.conf_directory, self.wanted.bin_directory):
            files.sweep(folder)
        try:
            self._put_program()
        except ConfigError as error:
            raise ProgramError(str(error), hint=error.hint) from None
        primary = self._choose(found)
        if isinstance(primary, Standing):
            return replace(primary, changed=tuple(self._changed))
        self._primary, self._broken_since = replace(primary, text=self._foreign(primary)), None
        read = next((each.text for each in found if each.path == primary.path), "")
        place = self._put_entry(primary, read)
        self._clean_others(found, place)
        return replace(self._standing(place), changed=tuple(self._changed))

    def remove(self) -> tuple[str, ...]:
        """Take entry and program off the node; return what could not be taken away, each with its reason.

        The program stays for as long as an entry does. Raises `ConfigError` where the folder can't be read.
        """
        with self._lock:
            return self._remove()

    def _remove(self) -> tuple[str, ...]:
        left: list[str] = []
        for each in configurations(self.wanted.conf_directory):
            try:
                if is_own(each.path, self.wanted.own_name):
                    files.remove(each.path)
                elif PLUGIN in each.types and not each.single:
                    self._write(each, each.text, unchained)
                elif each.fault and PLUGIN in _raw(each.path):
                    left.append(f"{each.fault}: the entry of {PLUGIN} can't be taken out")
            except ConfigError as error:
                left.append(str(error))
        program = self.wanted.bin_directory / PLUGIN
        try:
            if left:
                left.append(f"{program}: stays for as long as an entry names it")
            else:
                files.remove(program)
        except ConfigError as error:
            left.append(str(error))
        for folder in (self.wanted.conf_directory, self.wanted.bin_directory):
            files.sweep(folder)
        self.close()
        return tuple(left)

    def close(self) -> None:
        """Let go of what is open."""
        for each in self._replaced:
            os.close(each.descriptor)
        self._replaced = []

    # The program.

    def _put_program(self) -> None:
        path = self.wanted.bin_directory / PLUGIN
        seen = _seen(path)
        if seen and self._program_seen == seen:
            return
        try:
            content = self.wanted.program.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{self.wanted.program}: the plugin's program can't be read: {error.strerror}",
                hint="it belongs into the image: `./dev build plugin` makes it",
            ) from None
        if _is(path, content):
            self._program_seen = seen  # from before it was read
        else:
            files.replace(path, content, mode=0o755, anew=True)
            self._changed.append(path)

    # The entry.

    def _choose(self, found: tuple[Configuration, ...]) -> Configuration | Standing:
        """Return the primary network's configuration: the last good one where it was broken, and nobody mends it."""
        named = [each for each in found if self._may_be_primary(each.path)]
        before = self._primary
        here = next((each for each in named if before is not None and each.path == before.path), None)
        if before is not None and (mended := self._written_late(before, here)) is not None:
            return mended
        good = next((each for each in named if each.primary), None)
        if good is not None and (before is None or here is None or not here.fault or good.path < before.path):
            return good
        if before is None:
            what = self.wanted.conf_name or "good network configuration"
            faults = "; ".join(each.fault for each in named if each.fault)
            said = f" ({faults})" if faults else ""
            return Standing(ready=False, reason=f"{self.wanted.conf_directory}: there is no {what} yet{said}")
        if before.single or self.wanted.own_name:
            return before  # whose file is never touched; the one with the entry goes on as it is
        self._broken_since = self._broken_since or time.monotonic()
        rest = self._broken_since + REST - time.monotonic()
        said = here.fault if here is not None else f"{before.path}: was deleted"
        if rest > 0:
            return Standing(ready=False, reason=said, again=rest)
        log.warning("%s, and nobody has written another: putting back what it said", said)
        return before

    def _may_be_primary(self, path: Path) -> bool:
        name = self.wanted.conf_name
        alike = ("", path.name, f"{path.stem}.conf", f"{path.stem}.conflist")  # its owner may have changed to a list
        return name in alike and not is_own(path, self.wanted.own_name)

    def _put_entry(self, primary: Configuration, read: str) -> Path:
        """Put the entry behind a primary network's plugins; return the file in which it stands."""

        def changed(text: str) -> str:
            return wrapped(text, self._entry) if primary.single else chained(text, self._entry)

        try:
            text = changed(primary.text)
        except ConfigError as error:
            raise ConfigError(f"{primary.path}: {error}", hint=error.hint) from None
        if not primary.single and not self.wanted.own_name:
            self._write(primary, read, changed)
            return primary.path
        path = self.wanted.conf_directory / (self.wanted.own_name or wrapped_name(primary.path))
        if files.write_if_other(path, files.to_bytes(text), mode=self.wanted.own_mode):
            self._changed.append(path)
        return path

    def _write(self, before: Configuration, read: str, changed: Callable[[str], str]) -> None:
        """Put another's text into its file, changed, and go on looking at the file that this replaces.

        Where that one is newer than what was `read` there, its text is changed likewise and put there at once.
        """
        path, text, written = before.path.resolve(), changed(before.text), ""
        with contextlib.suppress(OSError):
            if files.read(path) == text:
                return
        for _ in range(_AT_ONCE):
            descriptor = files.exchange(path, files.to_bytes(text), mode=before.mode)
            self._changed.append(path)
            if descriptor is None:
                return
            late = _Replaced(path, descriptor, before.text, time.monotonic() + _KEPT_OPEN)
            self._replaced.append(late)
            late.text = files.read_open(descriptor, path)
            if late.text in (read, written):
                return
            written = text
            try:
                text = changed(late.text)
            except ConfigError:
                return  # what is broken is the next pass's

    def _written_late(self, before: Configuration, here: Configuration | None) -> Configuration | None:
        """Return what somebody has written into a file after it was replaced, unless there is something newer."""
        found = None
        for each in list(self._replaced):
            with contextlib.suppress(ConfigError, OSError):
                text = files.read_open(each.descriptor, each.path)
                if text != each.text and (document := of_text(text, single=False)):
                    each.text = text
                    newest = here is not None and not here.fault and self._foreign(here) == before.text
                    if newest and each.path == before.path.resolve():
                        found = replace(before, text=text, types=types(document))
            if each.until < time.monotonic():
                os.close(each.descriptor)
                self._replaced.remove(each)
        return found

    def _foreign(self, primary: Configuration) -> str:
        return primary.text if primary.single else unchained(primary.text)

    def _clean_others(self, found: tuple[Configuration, ...], place: Path) -> None:
        """Take away what stands where it no longer belongs, after another network has become the primary one."""
        for each in found:
            if each.path == place or each.path.resolve() == place:
                continue
            if is_own(each.path, self.wanted.own_name):
                files.remove(each.path)
                self._changed.append(each.path)
            elif PLUGIN in each.types and not each.single:
                self._write(each, each.text, unchained)

    def _standing(self, place: Path) -> Standing:
        first = next((each for each in configurations(self.wanted.conf_directory) if each.primary), None)
        if first is not None and first.path.resolve() != place.resolve() and not self.wanted.conf_name:
            return Standing(
                ready=False,
                reason=f"{first.path}: comes before {place}, so that pods start without {PLUGIN}",
                hint="give the own conflist a name that comes first in order",
            )
        return Standing(ready=True, reason=f"{PLUGIN} is in {place}")


def _raw(path: Path) -> str:
    try:
        return files.read(path)
    except (OSError, ConfigError):
        return ""


def _seen(path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


def _is(path: Path, content: bytes) -> bool:
    """Tell whether a program is there with this content, and can be run."""
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(content).digest()
        return same and path.stat().st_mode & 0o555 == 0o555
    except OSError:
        return False
