"""The image, by the project's own Dockerfile: Debian's buildah, unpacked and not installed, on bases of packages.

`python -m netns_tests.images.build` writes build/weir-image.tar, an OCI archive of localhost/weir, and says so. It
takes a minute the first time. Root only; neither docker nor a registry of images is needed, Go and apt are.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netns_tests.images import debian, oci

__all__ = ["image", "reference"]

ROOT = Path(__file__).parent.parent.parent
ARCHIVE = ROOT / "build/weir-image.tar"
CONTEXT = ("LICENSE", "README.md", "agent", "deploy", "pyproject.toml", "requirements.txt", "rulesets")
_SHELL = ("bash", "coreutils", "dash", "debianutils", "findutils", "grep", "sed")
_BASE = ("iptables", "nftables", "python3", "python3-nftables", *_SHELL)
_BUILDER = ("python3", "python3-nftables", "python3-pip", *_SHELL)
_BUILDAH = (
    "buildah golang-github-containers-common golang-github-containers-image libassuan0 libgpgme11 libsubid4".split()
)
_FROM = {"BASE": "base", "BUILDER": "builder", "GO": "builder"}
# How this machine reaches packages.
_PACKAGES = ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
# buildah starts itself anew without LD_LIBRARY_PATH, so its libraries have to be in their place; and it writes below
# /var/lib and /etc. All of that is seen in a mount namespace of its own, and nowhere else.
_INSIDE = """
mount -t overlay overlay -o "lowerdir=$2$1:$1" "$1"
mount -t tmpfs tmpfs "$3"; mkdir "$3/upper" "$3/work"
mount -t overlay overlay -o "lowerdir=/var/lib,upperdir=$3/upper,workdir=$3/work" /var/lib
shift 3; exec "$@"
"""


def reference() -> str:
    """Return the image's name."""
    return f"localhost/weir:{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}"


def image() -> Path:
    """Return the image as an OCI archive, built where the sources have changed since."""
    recipe = hashlib.sha256()
    for path in sorted(each for name in CONTEXT for each in (ROOT / name, *(ROOT / name).rglob("*")) if each.is_file()):
        if "__pycache__" not in path.parts:
            recipe.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    stamp = ARCHIVE.with_suffix(".stamp")
    with _locked(_cache()) as folder:
        if not ARCHIVE.exists() or not stamp.exists() or stamp.read_text() != recipe.hexdigest():
            _build(folder)
            stamp.write_text(recipe.hexdigest())
    return ARCHIVE


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    recipe = b"".join(each.read_bytes() for each in sorted(Path(__file__).parent.glob("*.py")))
    return base / "weir/images" / hashlib.sha256(recipe).hexdigest()[:12]


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # goes with its process
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _build(folder: Path) -> None:
    print(f"building {reference()} by deploy/Dockerfile, which takes a minute", file=sys.__stderr__, flush=True)
    if not (folder / "bases").exists():
        _bases(folder)
        (folder / "bases").touch()
    bases = [f"--build-arg={name}=localhost/{each}:1" for name, each in _FROM.items()]
    with tempfile.TemporaryDirectory(dir=folder) as context:
        for name in CONTEXT:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(context) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, context)
        dockerfile = ("--network", "host", "--format", "oci", "--file", f"{context}/deploy/Dockerfile")
        _buildah(folder, "bud", *dockerfile, *bases, "--tag", reference(), context)
    ARCHIVE.parent.mkdir(exist_ok=True)
    ARCHIVE.unlink(missing_ok=True)
    _buildah(folder, "push", reference(), f"oci-archive:{ARCHIVE}:{reference()}")


def _bases(folder: Path) -> None:
    """Make what FROM names, and buildah itself."""
    for each in debian.fetched(_BUILDAH, folder / "packages"):
        subprocess.run(["dpkg", "-x", each, folder / "buildah"], check=True)
    for name in ("networks", "var-lib", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    networks = f'[network]\nnetwork_backend = "cni"\nnetwork_config_dir = "{folder}/networks"\n'
    (folder / "containers.conf").write_text(networks)
    for name, packages in (("base", _BASE), ("builder", _BUILDER)):
        root = folder / name
        shutil.rmtree(root, ignore_errors=True)  # what a killed run has left
        debian.root_file_system(root, packages, folder / "packages")
        if name == "builder":
            shutil.copytree(_go(), root / "usr/local/go", dirs_exist_ok=True)
            for path in _PACKAGES:
                if (Path("/") / path).exists():
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(Path("/") / path, root / path)
        archive = folder / f"{name}.tar"
        oci.write(archive, f"localhost/{name}:1", root)
        _buildah(folder, "tag", _buildah(folder, "pull", "--quiet", f"oci-archive:{archive}"), f"localhost/{name}:1")
        shutil.rmtree(root)
        archive.unlink()


def _go() -> Path:
    """Return where Go is."""
    program = shutil.which("go") or "/usr/local/go/bin/go"
    return Path(subprocess.run([program, "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip())


def _buildah(folder: Path, verb: str, *arguments: str) -> str:
    """Run buildah and return the last line that it prints."""
    unpacked = folder / "buildah"
    policy = ("--signature-policy", f"{unpacked}/etc/containers/policy.json") if verb != "tag" else ()
    storage = ("--root", f"{folder}/storage", "--runroot", f"{folder}/runroot")
    inside = ("sh", "-ec", _INSIDE, "sh", _LIBRARIES, str(unpacked), str(folder / "var-lib"))
    command = (f"{unpacked}/usr/bin/buildah", *storage, verb, *policy, *arguments)
    environment = {
        **os.environ,
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_CONF": f"{folder}/containers.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{unpacked}/etc/containers/registries.conf",
        "STORAGE_DRIVER": "overlay",
        "TMPDIR": f"{folder}/tmp",
    }
    argv = ["unshare", "--mount", "--propagation", "private", *inside, *command]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"buildah {verb}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip().rpartition("\n")[2]


if __name__ == "__main__":
    print(f"{image()}: {reference()}")
