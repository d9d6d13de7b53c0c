"""Whose a process is, by the path of its cgroup: what kubelet and container runtimes make of a pod's uid.

    /kubepods/burstable/podUID/CONTAINER                                        cgroupfs (containerd, CRI-O)
    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-CONTAINER.scope   systemd;
         crio-CONTAINER.scope and docker-CONTAINER.scope in the same place; `-` is `_` in the uid (systemd.slice(5))
    /system.slice/containerd.service/kubepods-burstable-podUID.slice:cri-containerd:CONTAINER
         a runtime that takes a systemd name for a path, as containerd does where the two are set up differently
    /../../kubepods-besteffort.slice/...    as seen from a cgroup namespace (cgroup_namespaces(7))

Anything may stand before (a node that is a container itself) and behind (systemd or docker in a pod). What a process
can choose is only what stands behind its own cgroup, so the first pod on the path counts.

Sources: kubernetes pkg/kubelet/cm (cgroup_manager_linux.go, pod_container_manager_linux.go), containerd
internal/cri/server/podsandbox, cri-o internal/config/cgmgr.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

# A pod's uid as the API gives it, or the digest that a static pod has; both with `_` where systemd made the name.
_SHAPE = re.compile(r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}")
_POD = re.compile(r"(?:.*-)?pod(?P<uid>[0-9A-Za-z][-_0-9A-Za-z]{0,127}?)(?:\.slice)?(?P<rest>:.*)?", re.DOTALL)
_CONTAINER = re.compile(r"[0-9a-f]{32,64}")
_DELETED = " (deleted)"  # kernel/cgroup/cgroup.c, proc_cgroup_show


@dataclass(frozen=True, slots=True)
class Place:
    """A pod's uid with `_` for `-`, and the runtime's id of the container: empty where the path has none."""

    pod: str
    container: str = ""


def plain(uid: str) -> str:
    """Return a uid as `Place` has it."""
    return uid.replace("-", "_")


def place_of(cgroups: bytes, *, wanted: Collection[str] = (), node: Collection[str] = ()) -> Place | None:
    """Return whose a process is, by its /proc/PID/cgroup of v1, v2 or both; None where it is no pod's.

    `wanted` are uids (plain) that may have any shape; `node` those that the node itself is in, where it runs in a pod.
    None too where two hierarchies of v1 name two pods: somebody with rights over cgroups has moved it.
    """
    if b"pod" not in cgroups:
        return None
    found: Place | None = None
    for line in cgroups.decode(errors="surrogateescape").split("\n"):
        place = _of_path(line.split(":", 2)[-1], wanted, node)
        if place is None:
            continue
        if found is not None and found.pod != place.pod:
            return None
        if found is None or not found.container:
            found = place
    return found


def pods_on(cgroups: bytes) -> frozenset[str]:
    """Return every pod's uid (plain) on the paths of a /proc/PID/cgroup."""
    paths = (line.split(":", 2)[-1] for line in cgroups.decode(errors="surrogateescape").split("\n"))
    found = (_uid(each, ()) for path in paths for each in path.split("/"))
    return frozenset(each for each in found if each)


def _of_path(path: str, wanted: Collection[str], node: Collection[str]) -> Place | None:
    parts = path.removesuffix(_DELETED).split("/")
    for number, part in enumerate(parts):
        uid = _uid(part, wanted)
        if uid and uid not in node:
            behind = part.partition(":")[2] or next(iter(parts[number + 1 :]), "")
            containers = _CONTAINER.findall(behind)
            return Place(uid, containers[-1] if containers else "")
    return None


def _uid(part: str, wanted: Collection[str]) -> str:
    found = _POD.fullmatch(part)
    if found is None:
        return ""
    uid = found["uid"]
    return plain(uid) if plain(uid) in wanted or _SHAPE.fullmatch(uid) else ""
