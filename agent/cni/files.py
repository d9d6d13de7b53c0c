"""Files that others read at any instant: written whole beside their place, and renamed over it."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.errors import ConfigError
from agent.kernel.renaming import RENAME_EXCHANGE, RENAME_NOREPLACE, rename

_DRAFT = ".weir-draft-"  # no name that a container runtime reads
_MOST_BYTES = 1 << 20
_TRIES = 10  # others who delete and make the file all the while
_OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that somebody put there must not be waited for


def read(path: Path) -> str:
    """Return a small file's text; what is no UTF-8 in it comes through, with `to_bytes`.

    Raises `ConfigError` for what is too big or no regular file, and `OSError`.
    """
    with open(os.open(path, _OPENING), "rb") as file:
        return read_open(file.fileno(), path)


def read_open(descriptor: int, path: Path) -> str:
    """Return the text of a file that is open; `path` is its name for errors. Fails as `read` does."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
        raise ConfigError(f"{path}: is no regular file of at most {_MOST_BYTES} bytes")
    return os.pread(descriptor, _MOST_BYTES, 0).decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return what `read` has read, or a text made of it, as bytes."""
    return text.encode("utf-8", "surrogateescape")


def write_if_other(path: Path, content: bytes, *, mode: int) -> bool:
    """Make a file have this content, with a mode where it is made anew; return whether it had another."""
    try:
        if to_bytes(read(path)) == content:
            return False
    except (OSError, ConfigError):
        pass  # missing, or nothing that can stay
    replace(path, content, mode=mode)
    return True


def remove(path: Path) -> bool:
    """Delete a file; return whether it was there. Raises `ConfigError`."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{path}: can't be deleted: {error.strerror or error}") from None
    return True


def replace(path: Path, content: bytes, *, mode: int, anew: bool = False) -> None:
    """Put a file at a path, whole or not at all, on disk when this returns. Raises `ConfigError`.

    What was there keeps its mode, owner and security label; `mode` is for a file that is made `anew`, or wasn't there.
    """
    with _draft(path, content, mode, anew=anew) as draft:
        os.rename(draft, path)


def exchange(path: Path, content: bytes, *, mode: int) -> int | None:
    """Do as `replace`, and return a descriptor of the file that stood there until then; None where none did.

    So what somebody else has renamed to this path in the very moment isn't lost (renameat2(2), RENAME_EXCHANGE). On a
    filesystem that can't, a rename between two system calls still is.
    """
    with _draft(path, content, mode) as draft:
        for _ in range(_TRIES):
            try:
                rename(draft, path, RENAME_EXCHANGE)
                return os.open(draft, _OPENING | os.O_NOFOLLOW)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):  # made meanwhile
                    rename(draft, path, RENAME_NOREPLACE)
                    return None
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                break
        descriptor = os.open(path, _OPENING)
        os.rename(draft, path)
        return descriptor


@contextlib.contextmanager
def _draft(path: Path, content: bytes, mode: int, *, anew: bool = False) -> Iterator[str]:
    """Write a file beside a path, for the block to rename; what is left under its name afterwards is deleted."""
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f"{_DRAFT}{path.name}-", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if anew or not _take_after(file.fileno(), path):
                    os.fchmod(file.fileno(), mode)
                os.fsync(descriptor)
            yield draft
        finally:
            Path(draft).unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be written: {error.strerror or error}",
            hint=f"the folder {path.parent} must be there and writable: mount the node's own at this path",
        ) from None


def sweep(folder: Path) -> None:
    """Delete what killed writers have left in a folder."""
    for draft in folder.glob(f"{_DRAFT}*"):
        draft.unlink(missing_ok=True)


def _take_after(descriptor: int, path: Path) -> bool:
    """Give a file the mode, owner and label of the one at a path; return whether there is one."""
    try:
        before = os.stat(path)
    except FileNotFoundError:
        return False
    os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    try:
        os.setxattr(descriptor, "security.selinux", os.getxattr(path, "security.selinux"))
    except OSError:
        pass  # a system without labels
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
