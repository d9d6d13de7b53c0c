"""Where targets come from."""

from pathlib import Path

DEFAULT_FILE = Path("/etc/weir/weir.toml")
