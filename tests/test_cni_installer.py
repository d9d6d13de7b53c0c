"""The plugin gets onto a node, whatever network is there, and off again without a trace."""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.cni.conflist import PLUGIN
from agent.errors import ConfigError
from tests.cni_folders import BRIDGE, CALICO, DOCUMENT, FLANNEL, ISTIO, LOOPBACK, Folders


@pytest.fixture
def node(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_program_and_entry_are_put_in_place_and_left_alone_from_then_on(node: Folders) -> None:
    path = node.write("10-calico.conflist", CALICO, 0o640)
    installer = node.installer()
    standing = installer.put()
    assert standing.ready, standing
    assert set(standing.changed) == {path, node.bin / PLUGIN}
    assert node.is_chained("calico", "portmap")
    assert path.stat().st_mode & 0o777 == 0o640
    assert (node.bin / PLUGIN).stat().st_mode & 0o777 == 0o755
    before = path.stat().st_ino
    assert installer.put().changed == ()
    assert node.installer().put().changed == (), "nor by an agent that has been restarted"
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    ("files", "behind"),
    [
        ({"10-calico.conflist": CALICO}, ["calico", "portmap"]),
        ({"10-calico.conflist": CALICO, "05-flannel.conflist": FLANNEL}, ["flannel"]),
        ({"10-calico.conflist": CALICO, "05-flannel.conflist.bak": FLANNEL, "00": "x"}, ["calico", "portmap"]),
        ({"10-calico.conflist": CALICO, "05-broken.conflist": "{", "06-empty.conf": ""}, ["calico", "portmap"]),
        ({"10-calico.conflist": CALICO, "00-lo.conf": LOOPBACK}, ["calico", "portmap"]),
        ({"10-bridge.conf": BRIDGE}, ["bridge"]),
        ({"10-bridge.conf": BRIDGE, "99-loopback.conf": LOOPBACK}, ["bridge"]),
        ({"00-multus.conf": '{"type": "multus-shim", "name": "m"}', "10-calico.conflist": CALICO}, ["multus-shim"]),
    ],
    ids=["list", "first", "other names", "broken", "loopback", "single", "loopback after", "multus"],
)
def test_whatever_network_is_there_and_off_again(node: Folders, files: dict[str, str], behind: list[str]) -> None:
    for name, text in files.items():
        node.write(name, text)
    before = node.seen()
    installer = node.installer()
    assert installer.put().ready
    document = first_good(node)
    assert [each["type"] for each in document["plugins"]] == [*behind, PLUGIN]
    assert document["plugins"][-1] == DOCUMENT
    assert installer.remove() == ()
    assert node.seen() == before


def first_good(node: Folders) -> dict:  # type: ignore[type-arg]
    """The first configuration that a runtime can use; containerd passes no broken one, so none may come before ours."""
    for name in sorted(os.listdir(node.conf)):
        if name.endswith((".conf", ".conflist")):
            try:
                document = json.loads((node.conf / name).read_text())
            except ValueError:
                continue
            if document.get("type") != "loopback":
                return dict(document)
    raise AssertionError("there is none")


def test_a_single_plugins_file_is_not_touched(node: Folders) -> None:
    path = node.write("10-bridge.conf", BRIDGE)
    before = path.stat().st_ino
    node.installer().put()
    assert path.read_text() == BRIDGE
    assert path.stat().st_ino == before
    assert sorted(each.name for each in node.conf.iterdir()) == ["10-bridge-weir-cni.conflist", "10-bridge.conf"]
    assert (node.conf / "10-bridge-weir-cni.conflist").stat().st_mode & 0o777 == 0o600


def test_with_an_own_conflist_no_file_of_another_is_touched(node: Folders) -> None:
    path = node.write("10-calico.conflist", CALICO)
    before = node.seen()
    installer = node.installer(own_name="02-weir.conflist")
    assert installer.put().ready
    assert node.is_chained("calico", "portmap")
    assert path.read_text() == CALICO
    # It follows what the primary network says, its parameters too.
    path.write_text(CALICO.replace("1.50", "2.50"))
    assert installer.put().changed == (node.conf / "02-weir.conflist",)
    assert node.first()["plugins"][0]["of/others"] == [2.5]
    # And keeps pods waiting where that has gone, as after a boot.
    path.unlink()
    assert node.installer(own_name="02-weir.conflist").put().changed == ()
    assert node.is_chained("calico", "portmap")
    path.write_text(CALICO)
    assert installer.remove() == ()
    assert node.seen() == before


def test_an_own_conflist_that_does_not_come_first_is_not_ready(node: Folders) -> None:
    node.write("00-calico.conflist", CALICO)
    standing = node.installer(own_name="02-weir.conflist").put()
    assert not standing.ready
    assert "00-calico.conflist: comes before" in standing.reason


def test_an_own_conflist_follows_a_chain_and_the_other_way_round(node: Folders) -> None:
    path = node.write("10-calico.conflist", CALICO)
    node.installer().put()
    node.installer(own_name="02-weir.conflist").put()
    assert path.read_text() == CALICO, "the entry is in one place only"
    assert node.is_chained("calico", "portmap")


def test_a_named_file_is_chained_into(node: Folders) -> None:
    node.write("05-flannel.conflist", FLANNEL)
    path = node.write("10-calico.conflist", CALICO)
    for name in ("10-calico.conflist", "10-calico.conf"):  # whose owner has changed to a list
        assert node.installer(conf_name=name).put().ready
        assert json.loads(path.read_text())["plugins"][-1] == DOCUMENT
    assert (node.conf / "05-flannel.conflist").read_text() == FLANNEL
    standing = node.installer(conf_name="20-none.conflist").put()
    assert (standing.ready, "there is no 20-none.conflist yet" in standing.reason) == (False, True)


@pytest.mark.parametrize(
    "settings",
    [{"conf_name": "../x.conf"}, {"conf_name": "x"}, {"own_name": "a/b.conflist"}, {"own_name": "02-weir.conf"}],
)
def test_a_name_that_no_runtime_reads_is_refused(node: Folders, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="wants"):
        node.installer(**settings)


def test_a_network_that_comes_before_takes_the_entry_over(node: Folders) -> None:
    path = node.write("10-calico.conflist", CALICO)
    installer = node.installer()
    installer.put()
    node.write("05-bridge.conf", BRIDGE)
    assert installer.put().ready
    assert node.is_chained("bridge")
    assert path.read_text() == CALICO
    node.write("01-flannel.conflist", FLANNEL)
    assert installer.put().ready
    assert node.is_chained("flannel")
    assert not (node.conf / "05-bridge-weir-cni.conflist").exists()


def test_without_a_network_it_waits_and_says_so(node: Folders) -> None:
    installer = node.installer()
    for files, said in (
        ({}, "there is no good network"),
        ({"a.conf": "{"}, "a.conf: is no JSON"),
        ({"lo.conf": LOOPBACK}, ""),
    ):
        for name, text in files.items():
            node.write(name, text)
        standing = installer.put()
        assert not standing.ready
        assert said in standing.reason
    node.write("b.conflist", CALICO)
    assert installer.put().ready


@pytest.mark.parametrize("name", ["10-calico.conflist", "02-istio-cni.conflist", "YYY-istio-cni.conf"])
def test_istios_plugin_is_seen_before_anything_is_changed(node: Folders, name: str) -> None:
    node.write("10-calico.conflist", CALICO)
    node.write(name, ISTIO if name.endswith("list") else '{"type": "istio-cni"}')
    before = node.seen()
    with pytest.raises(ConfigError, match=f"{name}: has an entry of istio-cni") as refused:
        node.installer().put()
    assert "take it off this node first" in refused.value.hint
    assert node.seen() == before


def test_a_newer_cni_than_the_plugin_speaks_is_refused(node: Folders) -> None:
    """The runtime would ask in that version, and every pod of the node would fail."""
    path = node.write("10-calico.conflist", CALICO.replace("0.3.1", "1.2.0"))
    with pytest.raises(ConfigError, match=r"10-calico.conflist: cniVersion = '1.2.0': weir-cni speaks CNI up to 1.1.0"):
        node.installer().put()
    assert path.read_text() == CALICO.replace("0.3.1", "1.2.0")


@pytest.mark.parametrize("missing", ["conf", "bin", "program"])
def test_a_missing_folder_or_program_is_named(node: Folders, missing: str, tmp_path: Path) -> None:
    node.write("10-calico.conflist", CALICO)
    setattr(node, missing, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="elsewhere") as refused:
        node.installer().put()
    assert refused.value.hint
    assert (tmp_path / "net.d/10-calico.conflist").read_text() == CALICO, "nothing is half-done"


@pytest.mark.parametrize("damage", ["truncate", "replace", "mode", "delete"])
def test_the_program_is_put_back(node: Folders, damage: str) -> None:
    node.write("10-calico.conflist", CALICO)
    installer = node.installer()
    installer.put()
    path = node.bin / PLUGIN
    match damage:
        case "truncate":
            os.truncate(path, 0)
        case "replace":
            path.with_name("x").write_text("another program")
            path.with_name("x").rename(path)
        case "mode":
            path.chmod(0o644)
        case _:
            path.unlink()
    assert installer.put().changed == (path,)
    assert path.read_bytes() == node.program.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o755
    assert installer.put().changed == ()


def test_a_newer_image_brings_its_own_program(node: Folders) -> None:
    node.write("10-calico.conflist", CALICO)
    node.installer().put()
    node.program.write_bytes(b"\x7fELF newer")
    assert node.installer().put().changed == (node.bin / PLUGIN,)


def test_what_is_no_file_is_passed_by(node: Folders) -> None:
    """A pipe that nobody writes into, a folder, a link to nowhere, and what is too big to be a configuration."""
    os.mkfifo(node.conf / "00-pipe.conflist")
    (node.conf / "01-folder.conflist").mkdir()
    (node.conf / "02-link.conflist").symlink_to("nowhere")
    (node.conf / "03-big.conflist").write_text(" " * (1 << 20) + CALICO)
    (node.conf / os.fsdecode(b"04-\xff.conflist")).write_bytes(b"\xff")
    node.write("10-calico.conflist", CALICO)
    assert node.installer().put().ready
    assert json.loads((node.conf / "10-calico.conflist").read_text())["plugins"][-1] == DOCUMENT


def test_a_link_stays_a_link(node: Folders, tmp_path: Path) -> None:
    target = node.write(tmp_path / "real.conflist", CALICO)
    (node.conf / "10-calico.conflist").symlink_to(target)
    installer = node.installer()
    assert installer.put().ready
    assert node.is_chained("calico", "portmap")
    assert (node.conf / "10-calico.conflist").is_symlink()
    assert installer.put().changed == ()
    assert installer.remove() == ()
    assert target.read_text() == CALICO


def test_bytes_that_are_no_utf8_come_through(node: Folders) -> None:
    path = node.conf / "10-calico.conflist"
    content = CALICO.encode().replace(b"k8s-pod-network", b"k8s-\xff-network")
    path.write_bytes(content)
    installer = node.installer()
    installer.put()
    assert PLUGIN.encode() in path.read_bytes()
    installer.remove()
    assert path.read_bytes() == content


@pytest.mark.parametrize("act", ["put", "remove"])
def test_what_another_renames_there_in_the_very_moment_is_not_lost(node: Folders, act: str) -> None:
    path, draft = node.write("10-calico.conflist", CALICO), node.conf / "10-calico.new"
    moments = random.Random(6)
    with ThreadPoolExecutor(1) as thread:
        for number in range(150):
            text = CALICO.replace("1.50", f"{number}.25")
            draft.write_text(text)
            installer = node.installer()
            if act == "remove":
                installer.put()
            doing = thread.submit(getattr(installer, act))
            time.sleep(moments.random() * 0.004)
            draft.rename(path)
            doing.result()
            if act == "put":
                for _ in range(2):
                    installer.put()
                installer.close()
                assert node.first()["plugins"][0]["of/others"] == [number + 0.25]
                assert node.is_chained("calico", "portmap")
            else:
                assert path.read_text() == text
    assert [each.name for each in node.conf.iterdir()] == [path.name], "no draft is left"
