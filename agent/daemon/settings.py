"""How the daemon runs, and what its file says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.daemon.pace import Rhythm
from agent.errors import ConfigError
from agent.observe import endpoints
from agent.sources import DEFAULT_FILE
from agent.sources import file as target_file

if TYPE_CHECKING:  # what a node of Kubernetes takes is nothing that a plain host should have in memory
    from agent.daemon.node_settings import NodeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the daemon runs. `drain` is in seconds; `own`: nobody else is to change its tables.

    `metrics` is where others than this machine read metrics, and nothing else.

    On a node of Kubernetes (`kubernetes`) the file has only ``[defaults]``, and may be missing.
    """

    file: Path
    listen: endpoints.Listen
    workers: int = 2
    rhythm: Rhythm = field(default_factory=Rhythm)
    drain: float = 60.0
    own: bool = True
    metrics: endpoints.Listen | None = None
    kubernetes: "NodeSettings | None" = None


def read_file(settings: Settings) -> tuple[str, target_file.TargetFile]:
    """Return the file's text and what it says. Raises `ConfigError`."""
    node = settings.kubernetes is not None
    if node and settings.file == DEFAULT_FILE and not settings.file.exists():
        return "", target_file.TargetFile()
    text = target_file.read(settings.file)
    found = target_file.parse(text, str(settings.file))
    if node and found.targets:
        raise ConfigError(
            f"{settings.file}: target {found.targets[0].name!r}: with --kubernetes the cluster's labels say what is"
            " captured, and the file only how, in [defaults]"
        )
    return text, found
