"""Plugin and entry stay on the node while other programs write there too; a runtime reads good JSON all the time."""

import asyncio
import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cni.conflist import PLUGIN
from agent.cni.installation import Standing
from agent.cni.installer import Installer
from agent.cni.keeping import keep
from tests.cni_folders import BRIDGE, CALICO, FLANNEL, ISTIO, Folders, Reader, eventually


class Kept:
    """`keep` in a thread of its own."""

    def __init__(self, installer: Installer) -> None:
        self.installer = installer
        self.told: list[Standing] = []
        self.ended: list[BaseException | None] = []
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(keep(self.installer, self.told.append))
        try:
            self._loop.run_until_complete(self._task)
        except (asyncio.CancelledError, OSError) as error:
            self.ended.append(error)
        else:
            self.ended.append(None)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @property
    def last(self) -> Standing:
        eventually(lambda: bool(self.told), "the first pass")
        return self.told[-1]

    def stop(self) -> None:
        if not self.ended and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


@pytest.fixture
def node(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def kept(node: Folders) -> Iterator[Kept]:
    running = Kept(node.installer())
    yield running
    running.stop()
    running.installer.close()


def calico(node: Folders) -> bool:
    return node.is_chained("calico", "portmap")


def test_it_waits_for_a_network(node: Folders, kept: Kept) -> None:
    assert not kept.last.ready
    node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node) and kept.last.ready, "it is chained")


def in_place(path: Path) -> None:
    path.write_text(CALICO)


def by_rename(path: Path) -> None:
    path.with_suffix(".new").write_text(CALICO)
    path.with_suffix(".new").rename(path)


def truncated(path: Path) -> None:
    os.truncate(path, 0)


def cut_short(path: Path) -> None:
    os.truncate(path, 100)


def deleted(path: Path) -> None:
    path.unlink()


def deleted_and_written(path: Path) -> None:
    path.unlink()
    path.write_text(CALICO)


def moved_away(path: Path) -> None:
    path.rename(path.with_suffix(".cilium_bak"))


@pytest.mark.parametrize(
    "damage",
    [in_place, by_rename, truncated, cut_short, deleted, deleted_and_written, moved_away],
    ids=lambda d: d.__name__,
)
def test_the_entry_is_put_back(node: Folders, kept: Kept, damage: Callable[[Path], None]) -> None:
    path = node.write("10-calico.conflist", CALICO, 0o640)
    eventually(lambda: calico(node), "it is chained")
    for _ in range(3):
        damage(path)
        eventually(lambda: calico(node), damage.__name__)
        assert json.loads(path.read_text())["plugins"][0]["of/others"] == [1.5], "foreign keys stay"
        if damage not in (deleted_and_written, by_rename):
            assert path.stat().st_mode & 0o777 == 0o640


def test_the_program_is_put_back(node: Folders, kept: Kept) -> None:
    node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node), "it is chained")
    (node.bin / PLUGIN).unlink()
    eventually(lambda: calico(node), "the program is there again")
    (node.bin / PLUGIN).write_bytes(b"shorter")
    eventually(lambda: calico(node), "the program is whole again")


def test_another_writer_and_a_reader_who_never_rests(node: Folders, kept: Kept) -> None:
    """Whatever two writers do that each rename whole files: who reads finds good JSON, and the last word is both's."""
    path = node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node), "it is chained")
    with Reader(node.conf) as reader:
        for number in range(40):
            text = CALICO.replace("1.50", f"{number}.25")
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").rename(path)
            time.sleep(0.02 * (number % 5))
        said = "the other's last word is chained"
        eventually(lambda: calico(node) and node.first()["plugins"][0]["of/others"] == [39.25], said)
    assert reader.broken == []
    assert reader.readings > 40


def test_who_writes_slowly_into_the_file_itself_has_the_last_word(node: Folders, kept: Kept) -> None:
    """The file may be renamed over between two of its writes: what it writes then goes into one that nobody sees."""
    path = node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node), "it is chained")
    newer = CALICO.replace("1.50", "7.75")
    with path.open("w") as file:
        file.write(newer[:50])
        file.flush()
        eventually(lambda: calico(node), "what was there is put back, since nobody went on writing")
        file.write(newer[50:])
    eventually(lambda: calico(node) and node.first()["plugins"][0]["of/others"] == [7.75], "the late word counts")
    assert kept.last.ready


def test_who_opened_the_file_before_it_was_replaced_has_the_last_word(node: Folders, kept: Kept) -> None:
    path = node.write("10-calico.conflist", CALICO)
    with path.open("r+") as file:
        eventually(lambda: calico(node), "it is chained")
        file.write(CALICO.replace("1.50", "8.75"))
    eventually(lambda: calico(node) and node.first()["plugins"][0]["of/others"] == [8.75], "the late word counts")
    # But not against who has replaced the file since.
    path.with_suffix(".new").write_text(CALICO.replace("1.50", "9.75"))
    path.with_suffix(".new").rename(path)
    eventually(lambda: calico(node) and node.first()["plugins"][0]["of/others"] == [9.75], "the newest counts")


def test_another_network_takes_over(node: Folders, kept: Kept) -> None:
    path = node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node), "it is chained")
    node.write("20-flannel.conflist", FLANNEL)
    path.unlink()
    eventually(lambda: node.is_chained("flannel"), "the other is chained")
    time.sleep(0.5)
    assert not path.exists(), "the one that has gone doesn't come back"


def test_an_own_conflist_is_put_back(node: Folders) -> None:
    node.write("10-calico.conflist", CALICO)
    kept = Kept(node.installer(own_name="02-weir.conflist"))
    try:
        for damage in (in_place, truncated, deleted, moved_away):
            eventually(lambda: calico(node), "it is there")
            damage(node.conf / "02-weir.conflist")
            (node.conf / "02-weir.cilium_bak").unlink(missing_ok=True)
        eventually(lambda: calico(node), "it is there")
    finally:
        kept.stop()


def test_a_single_plugins_list_is_put_back(node: Folders, kept: Kept) -> None:
    path = node.write("10-bridge.conf", BRIDGE)
    for damage in (in_place, truncated, deleted):
        eventually(lambda: node.is_chained("bridge"), "it is there")
        damage(node.conf / "10-bridge-weir-cni.conflist")
    eventually(lambda: node.is_chained("bridge"), "it is there")
    assert path.read_text() == BRIDGE


def test_istio_that_comes_later_is_told_and_not_fought(
    node: Folders, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    path = node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node), "it is chained")
    path.write_text(ISTIO)
    eventually(lambda: "has an entry of istio-cni" in kept.last.reason, "it is told")
    assert not kept.last.ready
    time.sleep(0.5)
    assert path.read_text() == ISTIO
    path.write_text(CALICO)
    eventually(lambda: calico(node) and kept.last.ready, "it is chained again")


def test_two_writers_that_undo_each_other_are_named(
    node: Folders, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "weir.cni")
    path = node.write("10-calico.conflist", CALICO)
    for _ in range(7):
        eventually(lambda: calico(node), "it is chained")
        path.write_text(CALICO)
    eventually(lambda: "another program writes there too" in caplog.text, "the log says so")
    assert "cni.exclusive=false" in caplog.text


def test_two_installers_at_once_end_up_with_one_entry(node: Folders, kept: Kept) -> None:
    path = node.write("10-calico.conflist", CALICO)
    other = Kept(node.installer())
    try:
        for _ in range(5):
            path.write_text(CALICO)
            eventually(lambda: calico(node), "it is chained once")
        eventually(lambda: kept.last.ready and other.last.ready, "both are content")
    finally:
        other.stop()
    assert sorted(each.name for each in node.conf.iterdir()) == ["10-calico.conflist"]


def is_watched(folder: Path) -> bool:
    """Whether an inotify of this process watches a folder (proc_pid_fdinfo(5))."""
    watched = f" ino:{folder.stat().st_ino:x} "
    for each in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in this moment
            if watched in each.read_text():
                return True
    return False


def test_it_ends_when_a_folder_goes(node: Folders, kept: Kept) -> None:
    node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node) and is_watched(node.conf), "it is chained, and looked after")
    node.conf.rename(node.conf.with_name("gone"))
    eventually(lambda: bool(kept.ended), "it ends, to begin again")
    assert kept.ended == [None]


def test_a_folder_that_is_not_there_is_told(node: Folders) -> None:
    node.conf.rmdir()
    kept = Kept(node.installer())
    eventually(lambda: bool(kept.ended), "it ends, to begin again")
    assert isinstance(kept.ended[0], OSError)
    assert "set cniConfDir" in kept.last.hint


def test_removing_waits_for_a_pass_that_goes_on(node: Folders, kept: Kept) -> None:
    path = node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node), "it is chained")
    for _ in range(5):
        path.write_text(CALICO)
    kept.stop()
    assert kept.installer.remove() == ()
    assert path.read_text() == CALICO
    assert not (node.bin / PLUGIN).exists()


def test_it_stands_still_when_nothing_changes(node: Folders, kept: Kept) -> None:
    """Its own writing wakes it once, and no more."""
    node.write("10-calico.conflist", CALICO)
    eventually(lambda: calico(node) and kept.last.ready, "it is chained")
    time.sleep(0.5)
    passes = len(kept.told)
    time.sleep(1.0)
    assert len(kept.told) == passes
