"""What an uninstall could not finish is swept by `weir remove --all`: rules in namespaces, and the plugin's files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cni import kubeconfig
from agent.pods import leavings
from netns_tests.machine import Machine
from tests.cni_folders import CALICO, Folders

CREDENTIALS = kubeconfig.Credentials(server="https://10.0.0.1:443", authority="a", token="t")  # noqa: S106


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def left_by_an_agent(machine: Machine) -> tuple[Folders, Path, object]:
    """Make a node that an agent was killed on, right after it began to leave; with the folders as they were before."""
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
