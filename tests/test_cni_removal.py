"""The plugin gets off a node again, and what is killed half-way leaves a node that starts pods."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cni.conflist import PLUGIN
from tests.cni_folders import BRIDGE, CALICO, Folders
from tests.packages import ROOT


@pytest.fixture
def node(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_what_others_have_changed_meanwhile_stays(node: Folders) -> None:
    path = node.write("10-calico.conflist", CALICO)
    installer = node.installer()
    installer.put()
    document = json.loads(path.read_text())
    document["plugins"].append({"type": "bandwidth"})
    path.write_text(json.dumps(document, indent="\t"))
    assert installer.put().changed == (), "who wants to come last may"
    assert installer.remove() == ()
    document["plugins"] = [each for each in document["plugins"] if each["type"] != PLUGIN]
    assert json.loads(path.read_text()) == document


def test_what_cannot_be_taken_out_is_said_and_keeps_its_program(node: Folders) -> None:
    """An entry without its program would fail every pod of the node."""
    path = node.write("10-calico.conflist", CALICO)
    node.installer().put()
    path.write_text(path.read_text()[:-5])
    left = node.installer().remove()
    assert re.search(r"10-calico.conflist: is no JSON.*: the entry of weir-cni can't be taken out", left[0])
    assert re.search(r"bin/weir-cni: stays for as long as an entry names it", left[1])
    assert (node.bin / PLUGIN).exists()


def test_removing_what_was_never_there_is_no_error(node: Folders) -> None:
    node.write("10-calico.conflist", CALICO)
    before = node.seen()
    assert node.installer().remove() == ()
    assert node.installer().remove() == ()
    assert node.seen() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.cni_folders import Folders
step, what, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
node = Folders.__new__(Folders)
node.conf, node.bin, node.program = folder / "net.d", folder / "bin", folder / "weir-cni"
calls = 0
def dying(real):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call
for name in ("rename", "fsync", "unlink", "fchmod"):
    setattr(os, name, dying(getattr(os, name)))
getattr(node.installer(), what)()
print("ended")
"""


@pytest.mark.parametrize("what", ["put", "remove"])
@pytest.mark.parametrize("name", ["10-calico.conflist", "10-bridge.conf"])
def test_killed_at_any_step_leaves_a_node_that_starts_pods(node: Folders, tmp_path: Path, name: str, what: str) -> None:
    node.write(name, CALICO if name.endswith("list") else BRIDGE)
    before = node.seen()
    if what == "remove":
        node.installer().put()
    for step in range(1, 30):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(step), what, str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        kinds = [each["type"] for each in node.first().get("plugins", [])]
        assert PLUGIN not in kinds or (node.bin / PLUGIN).read_bytes() == node.program.read_bytes()
        if done.returncode != -signal.SIGKILL:
            assert done.stdout == "ended\n", done.stderr
            break
    assert step > 2
    installer = node.installer()
    assert installer.put().ready
    assert {each.name for each in node.bin.iterdir()} == {"bridge", PLUGIN}, "no draft stays"
    assert installer.remove() == ()
    assert node.seen() == before
