"""What the doctor says of a folder of network configurations. Files are the kernel's own; no root."""

import os
from pathlib import Path

import pytest

from agent.cni.conflist import chained
from agent.doctor import chain
from tests.cni_folders import BRIDGE, CALICO, DOCUMENT, FLANNEL, ISTIO, LOOPBACK

OURS = chained(CALICO, DOCUMENT)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "weir-cni").write_text("#!/bin/sh\n")
    (folder / "weir-cni").chmod(0o755)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "net.d"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, [("note", "cni-chain", "has no network configuration")]),
        ({"10-calico.conflist": OURS}, []),
        ({"10-calico.conflist": OURS, "99-loopback.conf": LOOPBACK}, []),
        ({"10-calico.conflist": CALICO}, [("note", "cni-chain", "has no entry of weir-cni")]),
        ({"10-bridge.conf": BRIDGE}, [("note", "cni-chain", "it is a single plugin's (.conf)")]),
        (
            {"05-cilium.conflist": FLANNEL, "10-calico.conflist": OURS},
            [("error", "cni-chain", "10-calico.conflist has Weir's entry, and runtimes use")],
        ),
        (
            {"10-n.conflist": ISTIO},
            [("error", "other-agent", "has an entry of istio-cni"), ("note", "cni-chain", "has no entry of weir-cni")],
        ),
        ({"10-a.conflist": OURS, "20-n.conflist": ISTIO}, [("warning", "other-agent", "20-n.conflist")]),
        ({"10-broken.conflist": "{"}, [("error", "cni-unreadable", "10-broken.conflist: is no JSON")]),
        ({"05-broken.conflist": "{", "10-a.conflist": OURS}, [("warning", "cni-unreadable", "05-broken.conflist")]),
    ],
)
def test_what_a_runtime_would_do(
    folder: Path, programs: Path, files: dict[str, str], said: list[tuple[str, str, str]]
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    found = list(chain.judge(chain.read(folder, programs)))
    assert [(str(each.level), each.check) for each in found] == [(level, check) for level, check, _ in said]
    assert all(part in each.what for each, (_, _, part) in zip(found, said, strict=True))


def test_an_entry_without_its_program_stops_every_pod(folder: Path, programs: Path) -> None:
    (folder / "10-calico.conflist").write_text(OURS)
    (programs / "weir-cni").chmod(0o644)
    if os.geteuid():  # root may execute nothing without a bit for it either
        assert not os.access(programs / "weir-cni", os.X_OK)
    assert [each.check for each in chain.judge(chain.read(folder, programs))] == ["cni-program"]
    (programs / "weir-cni").unlink()
    (found,) = chain.judge(chain.read(folder, programs))
    assert "isn't there" in found.what


def test_a_host_without_a_runtime_is_well(tmp_path: Path) -> None:
    assert not list(chain.judge(chain.read(tmp_path / "nowhere", tmp_path)))


def test_a_folder_that_can_t_be_read_is_said_to_be_unchecked(tmp_path: Path) -> None:
    (tmp_path / "net.d").write_text("a file")
    (found,) = chain.judge(chain.read(tmp_path / "net.d", tmp_path))
    assert (str(found.level), found.check) == ("unchecked", "cni-unreadable")
