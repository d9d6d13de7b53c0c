"""Pods' namespaces found by the cgroups of real processes: the right one of several, and why there is none."""

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import pytest

from agent.kernel.netns import Netns, OpenNetns, identify
from agent.sources.kubernetes.facts import MIRROR, Pod
from agent.sources.kubernetes.sandboxes import Sandbox, Unfit, Why, find
from netns_tests.namespace import Namespace
from netns_tests.pod_processes import Pods, address, hierarchies
from netns_tests.syscalls import drop_capabilities

FOUR, SIX = "10.9.8.7", "fd00:9::7"
BOX, INNER = "9a" * 32, "0c" * 32


@pytest.fixture(params=hierarchies(), ids=str)
def pods(request: pytest.FixtureRequest) -> Iterator[Pods]:
    with Pods(request.param) as made:
        yield made


def pod(*addresses: str, uid: str = "", **facts: object) -> Pod:
    found = tuple(map(ip_address, addresses or (FOUR,)))
    return Pod(namespace="shop", name="web", uid=uid or str(uuid4()), addresses=found, **facts)  # type: ignore[arg-type]


def place(wanted: Pod, box: str = BOX) -> str:
    return f"kubepods/burstable/pod{wanted.uid}/{box}"


def found(wanted: Pod, **options: Path) -> Sandbox:
    answer = find([wanted], **options)[wanted.uid]
    assert isinstance(answer, Sandbox), answer
    return answer


def refused(wanted: Pod, **options: Path) -> Unfit:
    answer = find([wanted], **options)[wanted.uid]
    assert isinstance(answer, Unfit), answer
    return answer


def namespace_of(pid: int) -> object:
    return identify(f"/proc/{pid}/ns/net")


@pytest.mark.parametrize(
    "form",
    [
        "kubepods/besteffort/pod{uid}/{box}",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{unit}.slice/cri-containerd-{box}.scope",
        "kubepods.slice/kubepods-pod{unit}.slice/crio-{box}.scope/container/init.scope",
        "docker/{inner}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{unit}.slice/cri-containerd-{box}.scope",
        "system.slice/containerd.service/kubepods-burstable-pod{unit}.slice:cri-containerd:{box}",
    ],
)
def test_a_pod_is_found_in_every_layout_and_nothing_says_more_than_is_so(pods: Pods, form: str) -> None:
    wanted = pod(SIX, FOUR)
    path = form.format(uid=wanted.uid, unit=wanted.uid.replace("-", "_"), box=BOX, inner=INNER)
    pid = pods.start(path, script=address(f"{FOUR}/24", f"{SIX}/64"))
    sandbox = found(wanted)
    assert (sandbox.uid, sandbox.netns, sandbox.container) == (wanted.uid, f"pid:{pid}", BOX)
    assert sandbox.identity == namespace_of(pid)
    assert (sandbox.interface, sandbox.addresses) == ("eth0", wanted.addresses)
    OpenNetns(Netns(sandbox.netns)).close()


def test_many_pods_are_found_in_one_pass(pods: Pods) -> None:
    wanted = [pod(f"10.9.8.{number}") for number in range(1, 6)]
    pids = [pods.start(place(each), script=address(f"{each.addresses[0]}/24")) for each in wanted]
    missing = pod()
    answers = find([*wanted, missing])
    assert [each.identity for each in answers.values() if isinstance(each, Sandbox)] == list(map(namespace_of, pids))
    absent = answers[missing.uid]
    assert isinstance(absent, Unfit)
    assert absent.why is Why.NOT_FOUND
    assert not absent.lasting


def test_a_namespace_that_is_mounted_has_that_path(pods: Pods) -> None:
    wanted = pod()
    with Namespace.create("cni") as namespace:
        namespace.command("sh", "-c", address(f"{FOUR}/24"))
        pods.start(place(wanted), into=namespace)
        assert found(wanted).netns == str(namespace.path)


def test_a_static_pod_is_found_by_the_digest_that_its_mirror_names(pods: Pods) -> None:
    digest = uuid4().hex
    wanted = pod(annotations={MIRROR: digest})
    pid = pods.start(f"kubepods/burstable/pod{digest}/{BOX}", script=address(f"{FOUR}/24"))
    assert found(wanted).identity == namespace_of(pid)


def test_a_mirror_that_names_another_pods_uid_gets_nothing_and_takes_nothing(pods: Pods) -> None:
    victim = pod(FOUR)
    thief = pod("10.9.8.8", annotations={MIRROR: victim.uid})
    pid = pods.start(place(victim), script=address(f"{FOUR}/24"))
    answers = find([thief, victim])
    refusal, sandbox = answers[thief.uid], answers[victim.uid]
    assert isinstance(refusal, Unfit)
    assert refusal.why is Why.NOT_OWNED
    assert isinstance(sandbox, Sandbox)
    assert sandbox.identity == namespace_of(pid)


def test_a_pod_with_user_namespaces_is_found_and_entered(pods: Pods) -> None:
    wanted = pod()
    options = ("--user", "--map-root-user", "--net")
    pid = pods.start(place(wanted), script=address(f"{FOUR}/24"), options=options)
    assert os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
    assert found(wanted).interface == "eth0"


def test_of_several_namespaces_it_is_the_one_with_the_address_however_old(pods: Pods) -> None:
    """A pod that makes namespaces, as docker in a pod does, before and after its network is set up."""
    wanted = pod()
    pods.start(place(wanted, INNER), script=address("172.17.0.2/16"))
    own = pods.start(place(wanted), script=address(f"{FOUR}/24"))
    pods.start(f"{place(wanted)}/docker/{INNER}", script=address("172.17.0.3/16"))
    assert found(wanted).identity == namespace_of(own)


def test_of_several_with_the_address_it_is_the_oldest_processs(pods: Pods) -> None:
    wanted = pod()
    own = pods.start(place(wanted), script=address(f"{FOUR}/24"))
    for _ in range(3):
        pods.start(f"{place(wanted)}/docker/{INNER}", script=address(f"{FOUR}/24"))
    assert found(wanted).identity == namespace_of(own)


@pytest.mark.parametrize(("oldest", "own"), [("9999", True), ("20000", False)])
def test_a_namespace_is_as_old_as_its_oldest_process_whatever_the_numbers_are(
    pods: Pods, tmp_path: Path, oldest: str, own: bool
) -> None:
    """With a /proc of which numbers and start times can be chosen; the namespaces are real."""
    wanted = pod()
    one, other = (pods.start(place(wanted), script=address(f"{FOUR}/24")) for _ in range(2))
    for pid, started, namespace in (("10000", 300, one), ("9999", 200, one), ("20000", 250, other)):
        process = tmp_path / pid
        (process / "ns").mkdir(parents=True)
        (process / "ns" / "net").symlink_to(f"/proc/{namespace}/ns/net")
        (process / "cgroup").write_text(f"0::/kubepods/pod{wanted.uid}/{BOX}\n")
        number = 100 if pid == oldest else started
        (process / "stat").write_text(f"{pid} (a) b) S {' '.join(['0'] * 18)} {number} 0\n")
        (process / "cmdline").write_bytes(b"a\0")
    assert found(wanted, proc=tmp_path).identity == namespace_of(one if own else other)


def test_a_namespace_without_the_pods_address_is_refused_with_those_it_has(pods: Pods) -> None:
    wanted = pod(FOUR, SIX)
    pods.start(place(wanted), script=address("10.1.1.1/24"))
    refusal = refused(wanted)
    assert refusal.why is Why.NOT_OWNED
    assert f"{FOUR}, {SIX}" in refusal.reason
    assert "10.1.1.1" in refusal.reason
    assert not refusal.lasting


def test_a_pod_whose_address_nobody_knows_yet_waits(pods: Pods) -> None:
    wanted = Pod(namespace="shop", name="web", uid=str(uuid4()))
    pods.start(place(wanted), script=address(f"{FOUR}/24"))
    assert refused(wanted).why is Why.NO_ADDRESS


def test_a_process_that_fakes_another_pods_cgroup_below_its_own_is_its_own(pods: Pods) -> None:
    """With the other's address as well: only who owns the cgroup decides."""
    victim, liar = pod(FOUR), pod("10.9.8.8")
    pods.start(f"{place(liar)}/{place(victim)}", script=address(f"{FOUR}/24", "10.9.8.8/24"))
    assert refused(victim).why is Why.NOT_FOUND
    assert found(liar).addresses == liar.addresses


def test_a_pod_of_the_hosts_network_is_never_found(pods: Pods) -> None:
    wanted = pod("127.0.0.1", host_network=True)
    pods.start(place(wanted), options=())
    refusal = refused(wanted)
    assert (refusal.why, refusal.lasting) == (Why.HOST_NETWORK, True)


def test_the_nodes_namespace_is_never_a_pods_even_with_its_address(pods: Pods) -> None:
    """As CRI-O's conmon is: in the pod's cgroup, and in the node's namespace."""
    wanted = pod("127.0.0.1")
    pid = pods.start(place(wanted), options=())
    refusal = refused(wanted)
    assert refusal.why is Why.NOT_FOUND
    assert f"{pid} (sleep)" in refusal.reason
    own = pods.start(place(wanted))
    subprocess.run(["nsenter", "-t", str(own), "-n", "ip", "link", "set", "lo", "up"], check=True)
    assert found(wanted).identity == namespace_of(own)


def test_processes_that_come_and_go_change_nothing(pods: Pods) -> None:
    wanted = pod()
    own = pods.start(place(wanted), script=address(f"{FOUR}/24"))
    pods.start(place(wanted), "sh", "-c", "while :; do unshare --net true; true & done")
    with ThreadPoolExecutor(2) as workers:
        answers = list(workers.map(lambda _: find([wanted])[wanted.uid], range(40)))
    assert {each.identity for each in answers if isinstance(each, Sandbox)} == {namespace_of(own)}
    assert all(isinstance(each, Sandbox) for each in answers), [each for each in answers if isinstance(each, Unfit)]


def test_who_may_not_look_at_processes_says_so(pods: Pods) -> None:
    wanted = pod()
    pods.start(place(wanted), script=address(f"{FOUR}/24"))
    answers: list[Unfit] = []

    def look() -> None:
        drop_capabilities()
        answers.append(refused(wanted))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert answers[0].why is Why.NOT_VISIBLE
    assert "ns/net" in answers[0].reason
    assert "CAP_SYS_PTRACE" in answers[0].hint


def test_a_proc_that_hides_processes_says_so(pods: Pods, tmp_path: Path) -> None:
    wanted = pod()
    pods.start(place(wanted), script=address(f"{FOUR}/24"))
    hiding = tmp_path / "proc"
    hiding.mkdir()
    pid = pods.start("elsewhere", script=f"mount -t proc -o hidepid=ptraceable proc {hiding}", options=("--mount",))
    descriptor = os.open(f"/proc/{pid}/root/{hiding}", os.O_RDONLY | os.O_DIRECTORY)
    answers: list[Unfit] = []

    def look() -> None:
        drop_capabilities()
        answers.append(refused(wanted, proc=Path(f"/proc/self/fd/{descriptor}")))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    os.close(descriptor)
    assert answers[0].why is Why.NOT_VISIBLE
    assert "hidepid" in answers[0].hint


def test_the_processes_of_another_pid_namespace_say_what_the_agent_lacks(pods: Pods, tmp_path: Path) -> None:
    wanted = pod()
    pods.start(place(wanted), script=address(f"{FOUR}/24"))
    elsewhere = tmp_path / "proc"
    elsewhere.mkdir()
    options = ("--pid", "--fork", "--mount", "--kill-child")
    pid = pods.start("elsewhere", script=f"mount -t proc proc {elsewhere}", options=options)
    refusal = refused(wanted, proc=Path(f"/proc/{pid}/root/{elsewhere}"))
    assert refusal.why is Why.NOT_VISIBLE
    assert "hostPID" in refusal.hint
    refusal = refused(wanted, proc=tmp_path / "nothing")
    assert refusal.why is Why.NOT_VISIBLE
    assert "nothing" in refusal.reason


def test_the_nodes_proc_may_be_mounted_elsewhere(pods: Pods) -> None:
    wanted = pod()
    pid = pods.start(place(wanted), script=address(f"{FOUR}/24"))
    elsewhere = Path(f"/proc/{os.getpid()}/root/proc")
    sandbox = found(wanted, proc=elsewhere)
    assert sandbox.netns == f"{elsewhere}/{pid}/ns/net"
    assert sandbox.identity == namespace_of(pid)
