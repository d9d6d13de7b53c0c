"""OCI archives, as `ctr image import` and `buildah pull oci-archive:` read them (opencontainers/image-spec)."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["unpack", "write"]

_TYPE = "application/vnd.oci.image."


def write(path: Path, reference: str, root: Path, *, entrypoint: Sequence[str] = ()) -> None:
    """Write an image of one layer from a root file system: the same bytes for the same files."""
    layer = _layer(root)
    platform = {"architecture": "amd64", "os": "linux"}
    run = {"Entrypoint": list(entrypoint)} if entrypoint else {}
    config = _json({**platform, "config": run, "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}})
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}manifest.v1+json",
            "config": {"mediaType": f"{_TYPE}config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{_TYPE}layer.v1.tar", "digest": _digest(layer), "size": len(layer)}],
        }
    )
    one = {"mediaType": f"{_TYPE}manifest.v1+json", "digest": _digest(manifest), "size": len(manifest)}
    names = {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference}
    index = _json({"schemaVersion": 2, "manifests": [{**one, "platform": platform, "annotations": names}]})
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", index)
        for blob in (layer, config, manifest):
            _add(archive, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)


def unpack(path: Path, root: Path) -> dict[str, object]:
    """Unpack an image's layers onto each other; return its configuration. Layers that delete files aren't known."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    with tarfile.open(path) as archive:

        def blob(digest: str) -> io.BufferedIOBase:
            found = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert found is not None
            return found  # type: ignore[return-value]

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.load(blob(json.load(index)["manifests"][0]["digest"]))
        for each in manifest["layers"]:
            # tar, since Python's versions differ in what they take for a link that is safe.
            plain = () if each["mediaType"].endswith("tar") else ("--gzip",)
            with blob(each["digest"]) as layer:
                subprocess.run(["tar", "-x", *plain, "-C", root], input=layer.read(), check=True)
        assert not list(root.rglob(".wh.*"))
        config: dict[str, object] = json.load(blob(manifest["config"]["digest"]))["config"]
        return config


def _layer(root: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            info = archive.gettarinfo(path, str(path.relative_to(root)))
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = "root"
            if info.isreg():
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
    return out.getvalue()


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
