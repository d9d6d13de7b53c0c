"""What the runner of other kernels reads and writes; `./dev test kernels` alone boots machines."""

import ast
import shlex
from pathlib import Path

import pytest

from netns_tests.kernels.__main__ import command, split
from netns_tests.kernels.debian import KERNELS, NotFetched, cache, dependency, mirror
from netns_tests.kernels.initramfs import archive, built_in, load_order
from netns_tests.kernels.suite import NODES
from netns_tests.kernels.verdict import Ending, outcomes, verdict
from netns_tests.kernels.virtual import job

ROOT = Path(__file__).parent.parent
ENDED = Ending(started=True, code=0, timed_out=False)
PASSED = "======= 30 passed, 1 skipped, 1 xfailed in 95.10s (0:01:35) ======="


def series(arguments: list[str]) -> tuple[list[str], tuple[str, ...]]:
    chosen, left = split(arguments)
    return [each.series for each in chosen], left


def test_kernels_are_named_first_and_all_are_meant_when_none_is() -> None:
    known = [each.series for each in KERNELS]
    assert series([]) == (known, ())
    assert series(["6.1", "-k", "owner"]) == (["6.1"], ("-k", "owner"))
    assert series(["-k", "6.1"]) == (known, ("-k", "6.1"))
    assert series(["5.10", "6.12", "-x"]) == (["5.10", "6.12"], ("-x",))
    with pytest.raises(ValueError, match=r"no kernel 4\.19: there are 5\.10, 6\.1, 6\.12"):
        split(["6.1", "4.19"])


def test_named_tests_stand_in_for_the_suite() -> None:
    words = shlex.split(command(["-k", "owner and not guard"], colour=False))
    assert words[-len(NODES) :] == list(NODES)
    assert "owner and not guard" in words
    named = "netns_tests/test_handle.py::test_a_closed_handle_says_so"
    assert shlex.split(command([named], colour=False))[-1] == named


@pytest.mark.parametrize("node", NODES)
def test_the_suite_names_tests_that_exist(node: str) -> None:
    file, _, name = node.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    defined = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
    assert not name or name.partition("[")[0] in defined


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (PASSED, {"passed": 30, "skipped": 1, "xfailed": 1}),
        (
            "\x1b[32m=== \x1b[1m3 passed\x1b[0m, \x1b[33m37 deselected\x1b[0m in 48.93s ===",
            {"passed": 3, "deselected": 37},
        ),
        ("2 failed, 1 passed, 1 error in 3.20s", {"failed": 2, "passed": 1, "error": 1}),
        ("===== 5 deselected in 0.31s =====", {"deselected": 5}),
        ("netns_tests/test_handle.py::test_a PASSED [ 3 passed in 1.0s", {}),
        ("===== no tests ran in 0.31s =====", {}),
    ],
)
def test_the_last_line_of_pytest_is_read(line: str, expected: dict[str, int]) -> None:
    assert outcomes(["collected 5 items", line, ""]) == expected


@pytest.mark.parametrize(
    ("ending", "lines", "expected"),
    [
        (ENDED, [PASSED], (True, "30 passed, 1 skipped, 1 xfailed")),
        (ENDED, [], (False, "no test passed: no result, exit status 0")),
        (ENDED, ["== 5 deselected in 0.31s =="], (False, "no test passed: 5 deselected, exit status 0")),
        (ENDED, ["== 5 skipped in 0.31s =="], (False, "no test passed: 5 skipped, exit status 0")),
        (
            Ending(started=True, code=1, timed_out=False),
            ["== 1 failed, 2 passed in 0.31s =="],
            (False, "1 failed, 2 passed"),
        ),
        (
            Ending(started=True, code=137, timed_out=False),
            ["== 2 passed in 0.31s =="],
            (False, "2 passed, exit status 137"),
        ),
        (
            Ending(started=True, code=None, timed_out=True),
            ["a PASSED"],
            (False, "the tests took too long or hung, and were stopped"),
        ),
        (
            Ending(started=True, code=None, timed_out=False),
            [PASSED],
            (False, "the machine ended before its job did: 30 passed, 1 skipped, 1 xfailed"),
        ),
        (Ending(started=False, code=None, timed_out=False), [], (False, "the machine ended before its job began")),
        (Ending(started=False, code=None, timed_out=True), [], (False, "the machine hung before its job began")),
    ],
)
def test_only_a_run_that_came_to_a_good_end_is_well(
    ending: Ending, lines: list[str], expected: tuple[bool, str]
) -> None:
    assert verdict(ending, lines) == expected


def test_the_mirror_is_the_machines_own() -> None:
    security, own = "Debian Debian-Security main http://a.test/security/", "Debian Debian main http://b.test/debian/"
    assert mirror(f"Google tools main http://c.test/\n{security}\n{own}\n") == "http://b.test/debian/"
    with pytest.raises(NotFetched, match="apt-get update"):
        mirror(security)


def test_the_suites_kernel_is_the_one_that_the_empty_package_names() -> None:
    described = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-50-amd64 (= 6.1.174-1), other\nSize: 1\n"
    assert dependency(described) == "linux-image-6.1.0-50-amd64"
    with pytest.raises(NotFetched, match="no kernel is named"):
        dependency("Package: linux-image-amd64\n")


def test_modules_are_loaded_after_what_they_need_and_once() -> None:
    index = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs.ko.xz\n"
    index += "kernel/net/9p/9pnet.ko.xz:\nkernel/fs/netfs.ko.xz:\n"
    index += "kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n"
    builtin = built_in("kernel/drivers/virtio/virtio-pci.ko\nkernel/fs/ext4.ko\n")
    assert load_order(index, builtin, ("virtio_pci", "9pnet_virtio", "9p")) == (
        "kernel/net/9p/9pnet.ko.xz",
        "kernel/net/9p/9pnet_virtio.ko.xz",
        "kernel/fs/netfs.ko.xz",
        "kernel/fs/9p/9p.ko.xz",
    )
    with pytest.raises(LookupError, match="overlay"):
        load_order(index, builtin, ("overlay",))


def test_an_archive_is_as_the_kernel_unpacks_it() -> None:
    made = archive(["bin"], {"init": b"hello"})
    assert len(made) % 4 == 0
    at, found = 0, []
    while at < len(made):
        assert made[at : at + 6] == b"070701"
        mode, size, length = (int(made[at + start : at + start + 8], 16) for start in (14, 54, 94))
        name = made[at + 110 : at + 110 + length]
        at += 110 + length + 3 & ~3
        found.append((name, mode, made[at : at + size]))
        at += size + 3 & ~3
    assert found == [(b"bin\0", 0o40755, b""), (b"init\0", 0o100755, b"hello"), (b"TRAILER!!!\0", 0, b"")]


def test_the_job_runs_in_its_folder_and_says_how_it_ended(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    script = job(folder, "pytest -k 'a b'", {"WEIR_TEST_SLOWNESS": "15"})
    assert "export WEIR_TEST_SLOWNESS=15\n" in script
    assert shlex.split(next(line for line in script.splitlines() if line.startswith("cd "))) == ["cd", str(folder)]
    assert script.splitlines()[-2:] == ["pytest -k 'a b'", 'echo "kernels: the job ended with $?"']


def test_kernels_are_kept_outside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache() == tmp_path / "weir/kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache() == tmp_path / ".cache/weir/kernels"
