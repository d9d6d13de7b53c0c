"""What Weir has put on a node is taken off it without the agent, wherever the node's folders are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cni.conflist import PLUGIN, chained
from agent.pods import leavings
from tests.cni_folders import BRIDGE, CALICO, Folders


def test_an_own_conflist_goes_too(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.write("10-bridge.conf", BRIDGE)
    before = folders.seen()
    installer = folders.installer(own_name="02-weir.conflist")
    installer.put()
    leavings.note(leavings.leavings_of(installer.wanted), tmp_path)
    assert leavings.sweep(tmp_path) == ()
    assert folders.seen() == before


def test_a_note_that_fits_nothing_here_is_said(tmp_path: Path) -> None:
    note = tmp_path / "installed.json"
    names = ("bin_directory", "conf_directory", "node_bin_directory", "node_conf_directory")
    for text in ("", "[]", "{}", json.dumps({**dict.fromkeys(names, "net.d"), "own_name": ""})):
        note.write_text(text)
        assert "installed.json: can't be read" in (leavings.sweep(tmp_path) or ())[0]
    note.write_text(json.dumps({**dict.fromkeys(names, "/nowhere/net.d"), "own_name": ""}))
    (left,) = leavings.sweep(tmp_path, tmp_path / "host") or ()
    assert "/nowhere/net.d" in left
    assert PLUGIN in left


@pytest.mark.parametrize("where", ["agent", "node", "debug"])
def test_a_node_without_an_agent_is_swept_wherever_its_folders_are(tmp_path: Path, where: str) -> None:
    """In the agent's container, on the node itself, and in a container that has the node's root in a folder."""
    root = tmp_path / "host"
    paths = {name: tmp_path / name for name in ("agent", "node")}
    folder = paths.get(where) or root / paths["node"].relative_to("/")
    folder.mkdir(parents=True)
    folders = Folders(folder)
    folders.write("10-calico.conflist", CALICO)
    before = folders.seen()
    assert folders.installer().put().ready
    agent, node = ((each / "bin", each / "net.d") for each in paths.values())
    installed = replace(folders.installer().wanted, bin_directory=agent[0], conf_directory=agent[1])
    leavings.note(leavings.leavings_of(installed, on_node=node), tmp_path)
    assert leavings.sweep(tmp_path, root) == ()
    assert folders.seen() == before
    assert leavings.noted(tmp_path) is None


def test_what_is_left_after_a_boot_is_swept_without_a_note(tmp_path: Path) -> None:
    """The run directory is in memory. Where nothing of Weir is, there is nothing to say."""
    root, nowhere = tmp_path / "host", tmp_path / "nowhere"
    usual = leavings.Leavings(
        bin_directory=nowhere,
        conf_directory=nowhere,
        node_bin_directory=tmp_path / "bin",
        node_conf_directory=tmp_path / "net.d",
    )
    conflist = root / (tmp_path / "net.d/10-calico.conflist").relative_to("/")
    conflist.parent.mkdir(parents=True)
    conflist.write_text(CALICO)
    assert leavings.sweep(tmp_path, root, usual) is None
    conflist.write_text(chained(CALICO, {"type": PLUGIN}))
    assert leavings.sweep(tmp_path, root, usual) == ()
    assert conflist.read_text() == CALICO
    assert leavings.sweep(tmp_path, root, usual) is None
