"""What an uninstall could not finish is swept by `weir remove --all`: rules in namespaces, and the plugin's files."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cni import kubeconfig
from agent.local_api import Client
from agent.pods import leavings
from netns_tests.command import WEIR
from netns_tests.machine import Machine
from netns_tests.world import eventually
from tests.cni_folders import CALICO, Folders

CREDENTIALS = kubeconfig.Credentials(server="https://10.0.0.1:443", authority="a", token="t")  # noqa: S106
NOWHERE = Path("/nowhere-at-all")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def left_by_an_agent(machine: Machine) -> tuple[Folders, Path, object]:
    """Make a node that an agent was killed on, with no time to leave; with the folders as they were before."""
    directory = machine.directory / "node"
    directory.mkdir()
    folders, run = Folders(directory), machine.directory
    conflist = folders.write("10-calico.conflist", CALICO)
    before = folders.seen()
    installer = folders.installer()
    assert installer.put().ready
    kubeconfig.write(run, CREDENTIALS)
    leavings.note(leavings.leavings_of(installer.wanted), run)
    return folders, conflist, before


def test_remove_all_takes_rules_and_plugin_off_the_node(machine: Machine) -> None:
    clean = machine.state()
    folders, _, before = left_by_an_agent(machine)
    assert machine.weir("apply", "--netns", "host", "--set", "when_proxy_absent=capture").code == 0
    done = machine.weir("remove", "--all")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "removed    host: rules and routes are gone\n"
        "removed    cni-plugin (netns host): the plugin, its entry and its credentials are taken off the node\n"
    )
    assert folders.seen() == before
    assert machine.state() == clean
    assert not list(machine.directory.glob("cni-*"))
    done = machine.weir("remove", "--all")
    assert (done.code, done.out) == (0, "nothing of Weir is in any namespace\n")


def test_what_cannot_be_swept_is_an_error_that_names_the_file(machine: Machine) -> None:
    folders, conflist, before = left_by_an_agent(machine)
    good = conflist.read_text()
    conflist.write_text(good[:-5])
    done = machine.weir("remove", "--all")
    assert done.code == 2
    assert f"{conflist}: is no JSON" in done.err
    assert "weir remove --all" in done.err
    report = machine.weir.json("remove", "--all").json["targets"][0]
    assert (report["target"], report["state"]) == ("cni-plugin", "failed")
    conflist.write_text(good)
    assert machine.weir("remove", "--all").code == 0
    assert folders.seen() == before


def test_an_agent_that_runs_keeps_its_plugin(machine: Machine, tmp_path: Path) -> None:
    folders, _, _ = left_by_an_agent(machine)
    there = folders.seen()
    file = tmp_path / "weir.toml"
    file.write_text("[defaults]\n")
    with machine.weir.started("daemon", "--file", str(file), "--listen", "none"):
        eventually(Client(machine.directory / "weir.sock").is_there, "the daemon listens")
        done = machine.weir("remove", "--all")
        assert (done.code, done.out) == (0, "nothing of Weir is in any namespace\n")
    assert folders.seen() == there


# A root of its own, as `kubectl debug node` and `nerdctl run -v /:/host` make it: the node's is in /host.
_CONTAINER = """
root=$1; shift
mount -t tmpfs none "$root"
for each in /*; do
    if [ -L "$each" ]; then cp -a "$each" "$root/"
    elif [ -d "$each" ] && [ "$each" != /host ]; then mkdir "$root$each" && mount --rbind "$each" "$root$each"
    fi
done
mkdir "$root/host" && mount --rbind / "$root/host"
exec chroot "$root" "$@"
"""


def test_a_container_on_the_node_sweeps_what_an_agent_left(machine: Machine) -> None:
    """The line of docs/kubernetes.md for a node that has no agent any more, where Weir isn't installed."""
    clean = machine.state()
    folders, _, before = left_by_an_agent(machine)
    nowhere = replace(folders.installer().wanted, bin_directory=NOWHERE, conf_directory=NOWHERE)
    leavings.note(leavings.leavings_of(nowhere, on_node=(folders.bin, folders.conf)), machine.directory)
    machine.run("ip", "netns", "add", "cni-1")
    machine.run("ip", "-n", "cni-1", "link", "set", "lo", "up")
    settings = ("--set", "when_proxy_absent=capture")
    assert machine.weir("apply", "--netns", "cni-1", *settings).code == 0
    root = machine.directory / "root"
    root.mkdir()
    inside = ["unshare", "--mount", "sh", "-euc", _CONTAINER, "sh", str(root), "env"]
    argv = [*machine.prefix, *inside, f"WEIR_RUN_DIR=/host{machine.directory}", WEIR, "remove", "--all"]
    done = subprocess.run(argv, env=machine.weir.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "removed    cni-1: rules and routes are gone\n"
        "removed    cni-plugin (netns host): the plugin, its entry and its credentials are taken off the node\n"
    )
    assert folders.seen() == before
    machine.run("ip", "netns", "del", "cni-1")
    assert machine.state() == clean
