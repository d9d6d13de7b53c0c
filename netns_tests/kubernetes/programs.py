"""Kubernetes' own programs, etcd and helm, built by Go from public modules at the versions that `build/` pins."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

__all__ = ["program"]

# What isn't a command of Kubernetes' own module, with a recipe of its own.
_PACKAGES = {"etcd": "go.etcd.io/etcd/server/v3", "helm": "helm.sh/helm/v4/cmd/helm"}
_RECIPES = Path(__file__).with_name("build")
_VERSIONED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


@cache
def program(name: str) -> Path:
    """Return the path of etcd, helm or one of Kubernetes' programs, which takes minutes once.

    What WEIR_KUBERNETES, a folder, has is taken as it is; the rest is built into the cache.
    """
    named = os.environ.get("WEIR_KUBERNETES")
    if named and (Path(named) / name).exists():
        return Path(named) / name
    recipe = _RECIPES / (name if name in _PACKAGES else "kubernetes")
    digest = hashlib.sha256(b"".join((recipe / each).read_bytes() for each in ("go.mod", "go.sum"))).hexdigest()[:12]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "weir" / f"kubernetes-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # goes with its process
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            _build(name, recipe, folder)
    return folder / name


def _build(name: str, recipe: Path, folder: Path) -> None:
    path = os.environ["PATH"] + os.pathsep + "/usr/local/go/bin"
    if shutil.which("go", path=path) is None:
        pytest.fail(f"{name} is built by Go 1.26 or later, which isn't there: install it", pytrace=False)
    print(f"building {name} once, which takes minutes: {folder}", file=sys.__stderr__, flush=True)
    flags = ["-s", "-w"]
    package = _PACKAGES.get(name, f"k8s.io/kubernetes/cmd/{name}")
    if name not in _PACKAGES:
        version = _go(path, recipe, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").strip()
        major, minor, _ = version.removeprefix("v").split(".", 2)
        told = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        flags += [f"-X {each}.{key}={value}" for each in _VERSIONED for key, value in told.items()]
    draft = folder / f"{name}.half"
    _go(path, recipe, "build", "-ldflags", " ".join(flags), "-o", str(draft), package)
    draft.rename(folder / name)


def _go(path: str, recipe: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PATH": path,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath",
    }
    done = subprocess.run(["go", *arguments], cwd=recipe, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"go {arguments[0]} of {recipe.name}: {done.stderr[-2000:]}", pytrace=False)
    return done.stdout
