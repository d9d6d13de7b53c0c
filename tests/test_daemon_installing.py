"""What a pass of the installer comes to is counted under Istio's names, and noted on the node before it begins."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.daemon.installing import Installing
from agent.daemon.node_settings import NodeSettings, Plugin
from agent.pods import leavings
from tests.cni_folders import CALICO, SECONDS, Folders


def installing(folders: Folders, run: Path) -> Installing:
    plugin = Plugin(program=folders.program, bin_directory=folders.bin, conf_directory=folders.conf)
    on_node = replace(plugin, on_node=(folders.bin.with_name("b"), folders.conf.with_name("c")))
    return Installing(NodeSettings(node="n", plugin=plugin), on_node, run)


async def _until(made: Installing, holds: Callable[[], bool]) -> None:
    running = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(SECONDS):
            while not holds():  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_a_program_that_can_not_be_copied_has_a_result_of_its_own(tmp_path: Path) -> None:
    folders, run = Folders(tmp_path), tmp_path / "run"
    folders.write("10-calico.conflist", CALICO)
    before = folders.seen()
    program = folders.program.read_bytes()
    folders.program.unlink()
    made = installing(folders, run)
    asyncio.run(_until(made, lambda: bool(made.results)))
    assert set(made.results) == {"COPY_BINARIES_FAILURE"}
    assert str(folders.program) in made.standing.reason
    assert folders.seen() == before
    folders.program.write_bytes(program)
    made = installing(folders, run)
    asyncio.run(_until(made, lambda: made.standing.ready))
    assert made.results == {"SUCCESS": 1}


def test_a_configuration_that_can_not_be_changed_has_another(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.write("10-calico.conflist", CALICO.replace("0.3.1", "9.0.0"))
    made = installing(folders, tmp_path / "run")
    asyncio.run(_until(made, lambda: bool(made.results)))
    assert set(made.results) == {"CREATE_CNI_CONFIG_FAILURE"}


def test_where_the_plugin_is_has_been_noted_by_the_nodes_own_paths(tmp_path: Path) -> None:
    folders, run = Folders(tmp_path), tmp_path / "run"
    folders.write("10-calico.conflist", CALICO)
    before = folders.seen()
    made = installing(folders, run)
    asyncio.run(_until(made, lambda: made.standing.ready))
    found = leavings.noted(run)
    assert found is not None
    assert (found.conf_directory, found.node_conf_directory) == (folders.conf, folders.conf.with_name("c"))
    assert leavings.sweep(run, tmp_path / "host") == ()
    assert folders.seen() == before
