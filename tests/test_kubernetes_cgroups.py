"""Whose a process is, by every form of cgroup path that kubelets and container runtimes make."""

import pytest

from agent.sources.kubernetes.sandboxes.layout import Place, place_of, plain, pods_on
from agent.sources.kubernetes.sandboxes.runtimes import foreign_program, foreign_runtime
from agent.sources.kubernetes.sandboxes.sandbox import Why

UID = "2f0dcbf4-1fa7-4a55-a1c0-6a3b1e2d9c77"
OTHER = "7c8a1f9e-55f0-4d0c-8d2b-0b9d4a3f6e11"
DIGEST = "5b1fd2b1b9c4c9d0d5a7d1f2e3a4b5c6"  # a static pod's
UNIT, OTHERS = plain(UID), plain(OTHER)
BOX = "9a" * 32
INNER = "0c" * 32


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/burstable/pod{UID}/{BOX}",
        f"/kubepods/pod{UID}/{BOX}",
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNIT}.slice/cri-containerd-{BOX}.scope",
        f"/kubepods.slice/kubepods-pod{UNIT}.slice/crio-{BOX}.scope",
        f"/kubepods.slice/kubepods-pod{UNIT}.slice/crio-conmon-{BOX}.scope",
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNIT}.slice/docker-{BOX}.scope",
        f"/system.slice/containerd.service/kubepods-burstable-pod{UNIT}.slice:cri-containerd:{BOX}",
        f"/kubepods-burstable-pod{UNIT}.slice:cri-containerd:{BOX}",
        f"/docker/{INNER}/kubelet/kubepods/besteffort/pod{UID}/{BOX}",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable-pod{UNIT}.slice/cri-containerd-{BOX}.scope",
        f"/../../../kubepods-besteffort.slice/kubepods-besteffort-pod{UNIT}.slice/cri-containerd-{BOX}.scope",
        f"/../../pod{UID}/{BOX}",
        f"/kubepods/pod{UID}/{BOX} (deleted)",
        f"/kubepods/pod{UID}/{BOX}/init.scope",
        f"/kubepods/pod{UID}/{BOX}/docker/{INNER}",
        f"/kubepods/pod{UID}/kata_{BOX}",
        f"/garden/user.slice/podman-4711.scope/kubepods/pod{UID}/{BOX}",
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_pod_and_container_are_read_from_every_layout(path: str, version: int) -> None:
    content = f"0::{path}\n" if version == 2 else f"12:memory:{path}\n11:cpu,cpuacct:{path}\n1:name=systemd:/\n0::/\n"
    assert place_of(content.encode()) == Place(UNIT, BOX)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("", None),
        ("0::/\n", None),
        ("0::/system.slice/podman.service\n", None),
        ("0::/kubepods/burstable\n", None),
        (f"0::/kubepods/pod{UID[:-1]}\n", None),  # a digit short
        (f"0::/kubepods/tripod{UID}/{BOX}\n", None),
        (f"0::/kubepods/pod{UID}\n", Place(UNIT)),
        (f"0::/kubepods/burstable/pod{DIGEST}/{BOX}\n", Place(DIGEST, BOX)),
        (f"0::/kubepods.slice/kubepods-burstable-pod{DIGEST}.slice/crio-{BOX}.scope\n", Place(DIGEST, BOX)),
        # What a process makes below its own cgroup is still its own.
        (f"0::/kubepods/pod{UID}/{BOX}/kubepods/pod{OTHER}/{INNER}\n", Place(UNIT, BOX)),
        (f"0::/kubepods/pod{UID}/{BOX}/kubepods-pod{OTHERS}.slice:cri-containerd:{INNER}\n", Place(UNIT, BOX)),
        # Two pods at once is a process that somebody has moved.
        (f"3:memory:/kubepods/pod{UID}/{BOX}\n2:pids:/kubepods/pod{OTHER}/{INNER}\n", None),
        (f"3:memory:/kubepods/pod{UID}\n2:pids:/kubepods/pod{UID}/{BOX}\n", Place(UNIT, BOX)),
        (f"no colons pod{UID}\n", None),
    ],
)
def test_what_is_no_pods_is_none(content: str, place: Place | None) -> None:
    assert place_of(content.encode()) == place


def test_bytes_that_are_no_text_are_no_pods() -> None:
    assert place_of(b"0::/kubepods/pod\xff\xfe/" + BOX.encode()) is None
    assert place_of(b"0::/\xff/pod" + UID.encode() + b"\n") == Place(UNIT)


def test_a_static_pod_may_have_any_uid_that_is_asked_for() -> None:
    content = b"0::/kubepods/podweb_7/x\n"
    assert place_of(content) is None
    assert place_of(content, wanted={"web_7"}) == Place("web_7")


def test_a_node_in_a_pod_is_on_every_path_and_nobodys() -> None:
    node = pods_on(f"0::/kubepods/pod{OTHER}/{INNER}/init\n".encode())
    assert node == {OTHERS}
    content = f"0::/kubepods/pod{OTHER}/{INNER}/kubelet/kubepods/pod{UID}/{BOX}\n".encode()
    assert place_of(content, node=node) == Place(UNIT, BOX)
    assert place_of(content) == Place(OTHERS, INNER)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gvisor", Why.GVISOR),
        ("runsc", Why.GVISOR),
        ("GVisor-gpu", Why.GVISOR),
        ("kata", Why.KATA),
        ("kata-qemu-snp", Why.KATA),
        ("aks-kata.v2", Why.KATA),
        ("", None),
        ("runc", None),
        ("nvidia", None),
        ("crun-wasm", None),
        ("katamaran", None),
    ],
)
def test_a_runtime_class_is_told_by_its_name(name: str, why: Why | None) -> None:
    assert foreign_runtime(name) is why


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"exe", "runsc-sandbox", "runsc"}, Why.GVISOR),
        ({"runsc-gofer"}, Why.GVISOR),
        ({"qemu-system-x86", "qemu-system-x86_64"}, Why.KATA),
        ({"cloud-hypervisor"}, Why.KATA),
        ({"virtiofsd"}, Why.KATA),
        ({"containerd-shim", "containerd-shim-kata-v2"}, Why.KATA),
        ({"containerd-shim", "containerd-shim-runc-v2"}, None),
        ({"pause"}, None),
        ({""}, None),
    ],
)
def test_a_sandbox_with_a_kernel_is_told_by_its_programs(names: set[str], why: Why | None) -> None:
    assert foreign_program(frozenset(names)) is why
