"""Sandboxes with a kernel of their own are told by the names of their processes, and what names alone don't prove."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.sources.kubernetes.sandboxes import Sandbox, Unfit, Why, find
from netns_tests.pod_processes import Pods, address, hierarchies
from netns_tests.test_sandboxes_found import FOUR, INNER, found, namespace_of, place, pod, refused
from netns_tests.world import eventually

# It goes by one name until somebody writes a line, and then by another.
RENAMED = r"""
printf firecracker > /proc/$$/comm
read line < "$0"
printf 'a\033\nb' > /proc/$$/comm
read line < "$0"
"""


@pytest.fixture
def pods() -> Iterator[Pods]:
    with Pods(hierarchies()[0]) as made:
        yield made


def named(folder: Path, *names: str) -> list[str]:
    """Return programs with these names, each of which sleeps."""
    for name in names:
        (folder / name).write_bytes(Path("/bin/sleep").read_bytes())
        (folder / name).chmod(0o755)
    return [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("program", "why"),
    [("runsc-sandbox", Why.GVISOR), ("qemu-system-x86_64", Why.KATA), ("cloud-hypervisor", Why.KATA)],
)
@pytest.mark.parametrize("runtime", ["safe", ""])
def test_a_sandbox_with_its_own_kernel_is_refused_and_for_good_where_the_pod_asks_for_a_runtime(
    pods: Pods, tmp_path: Path, program: str, why: Why, runtime: str
) -> None:
    wanted = replace(pod(), runtime_class=runtime)
    machine, helper = named(tmp_path, program, "runsc-gofer" if why is Why.GVISOR else "virtiofsd")
    pods.start(place(wanted), machine, "600", script=address(f"{FOUR}/24"))
    pods.start(place(wanted), helper, "600", options=())
    refusal = refused(wanted)
    assert (refusal.why, refusal.lasting) == (why, bool(runtime))
    assert program[:15] in refusal.reason


def test_a_machine_in_an_ordinary_pod_is_the_pods_own_affair(pods: Pods, tmp_path: Path) -> None:
    """As KubeVirt's are: the pod has a pause process, and a namespace in which rules work."""
    wanted = pod()
    (machine,) = named(tmp_path, "qemu-system-x86_64")
    own = pods.start(place(wanted), script=address(f"{FOUR}/24"))
    pods.start(place(wanted, INNER), machine, "600")
    assert found(wanted).identity == namespace_of(own)


def test_a_process_that_calls_itself_a_hypervisor_keeps_its_pod_out_no_longer_than_it_does(
    pods: Pods, tmp_path: Path
) -> None:
    """Without a pause process, as CRI-O leaves it out, it is the only one that could say something else."""
    wanted, go = pod(), tmp_path / "go"
    os.mkfifo(go)
    pid = pods.start(place(wanted), "sh", "-c", RENAMED, str(go), script=address(f"{FOUR}/24"))
    eventually(lambda: isinstance(find([wanted])[wanted.uid], Unfit), "it goes by the name")
    refusal = refused(wanted)
    assert (refusal.why, refusal.lasting) == (Why.KATA, False)
    assert f"seems to run in a Kata virtual machine (process {pid}, firecracker)" in refusal.reason
    go.write_text("\n")
    eventually(lambda: isinstance(find([wanted])[wanted.uid], Sandbox), "it goes by another name")
    assert found(wanted).identity == namespace_of(pid)


def test_a_name_that_can_not_be_printed_is_escaped(pods: Pods, tmp_path: Path) -> None:
    """Of a process in the node's namespace, which the reason names."""
    wanted, go = pod(), tmp_path / "go"
    os.mkfifo(go)
    pods.start(place(wanted), "sh", "-c", RENAMED, str(go), options=())
    go.write_text("\n")
    eventually(lambda: r" (a\x1b\nb) " in refused(wanted).reason, "it is named as it can be printed")
    assert refused(wanted).reason.isprintable()
