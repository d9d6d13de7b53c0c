"""How the plugin reaches the API when the agent is away: a kubeconfig, and beside it token and certificate authority.

Each is a file of its own, written whole, with mode 0600. The token has to outlive the agent's pod: the API refuses one
that is bound to a pod as soon as that pod has gone, and then no pod could start on a node without an agent.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from agent.cni import files
from agent.errors import ConfigError

NAME = "cni-kubeconfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where the API is, as a URL that works on the node itself, its certificate authority (PEM), and a bearer token."""

    server: str
    authority: str
    token: str


def write(folder: Path, credentials: Credentials) -> Path:
    """Write what the plugin needs into a folder, as far as it isn't there; return the kubeconfig. Raises `ConfigError`.

    The folder must have the same path on the node as here.
    """
    authority, token, config = _files(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: can't be made: {error.strerror}", hint="set WEIR_RUN_DIR to another") from None
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "local", "cluster": {"server": credentials.server, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": "weir-cni", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "weir-cni", "context": {"cluster": "local", "user": "weir-cni"}}],
        "current-context": "weir-cni",
    }
    # The kubeconfig comes last, so that what it names is there. JSON is YAML, so kubectl reads it too.
    files.write_if_other(authority, credentials.authority.encode(), mode=0o600)
    files.write_if_other(token, credentials.token.encode(), mode=0o600)
    files.write_if_other(config, f"{json.dumps(document, indent=2)}\n".encode(), mode=0o600)
    return config


def remove(folder: Path) -> None:
    """Delete what `write` has written. Raises `ConfigError`."""
    for path in reversed(_files(folder)):
        files.remove(path)


def _files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "cni-authority.pem", folder / "cni-token", folder / NAME
