"""The commands on live namespaces: what they say, what they leave, how they end."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from netns_tests.command import Command, Session
from netns_tests.enrolling import FAMILIES, alive, kernel_state, slow, ways
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.traffic import Stream
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4
MANY, LOST = 150, 10
AT_ONCE = ("--set", "when_proxy_absent=capture")


@pytest.fixture
def pod(world: World) -> Host:
    return world.pods[0]


@pytest.fixture
def weir(tmp_path: Path) -> Command:
    return Command(tmp_path / "run")


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    with Proxy(pod) as running:
        yield running


def generation(place: Namespace) -> int:
    """The number that changes with every change of a namespace's rules."""

    def look() -> int:
        handle = Handle(Netns(str(place.path)))
        try:
            return handle.generation()
        finally:
            handle.close()

    return place.run(look)


def load_json(pod: Namespace, rules: object) -> None:
    pod.command("nft", "-j", "-f", "-", stdin=json.dumps(rules))


def test_what_render_prints_is_loaded_by_nft_and_is_what_apply_writes(pod: Host, weir: Command, proxy: Proxy) -> None:
    asked = ("render", "--netns", pod.name, "--set", 'exclude_outbound_networks=["10.0.0.0/8", "fd00::/8"]')
    listings = []
    for each in ("text", "json", "document", "apply"):
        if each == "text":
            pod.nft(weir(*asked).out)
        elif each == "json":
            load_json(pod, weir(*asked, "--format", "json").json)
        elif each == "document":
            load_json(pod, weir.json(*asked).target["rules"])
        else:
            assert weir("apply", *asked[1:]).code == 0
        listings.append(pod.command("nft", "-s", "list", "ruleset"))
        pod.nft("flush ruleset")
    assert "10.0.0.0/8" in listings[0]
    assert listings[1:] == listings[:1] * 3


def test_a_whole_life(world: World, pod: Host, weir: Command, proxy: Proxy) -> None:
    here, before = ("--netns", pod.name), kernel_state(pod)
    number = generation(pod)
    shown = weir("diff", *here)
    assert shown.code == 1
    assert shown.out.startswith(f"differs    {pod.name}: ")
    assert " to add, 0 to remove\n" in shown.out
    assert "    + tcp dport 15008 counter" in shown.out
    assert shown.out.endswith(f"`weir apply --netns {pod.name}` makes it so\n")
    assert weir.json("apply", "--dry-run", *here).target["changes"]
    assert (weir("verify", *here).code, weir("status", *here).code) == (1, 0)
    assert generation(pod) == number
    assert kernel_state(pod) == before
    assert ways(world, pod) == DIRECT

    done = weir("apply", *here)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"applied    {pod.name}: rules and routes were written and read back equal\n"
    assert ways(world, pod) == CAPTURED
    number = generation(pod)
    again = weir.json("apply", *here)
    assert (again.code, again.target["state"], again.target["changes"]) == (0, "unchanged", [])
    same = weir("diff", *here)
    assert (same.code, same.out) == (0, f"same       {pod.name}: nothing would change\n")
    verified = weir.json("verify", *here)
    assert (verified.code, verified.target["captured"]) == (0, True)
    assert {each["check"]: each["holds"] for each in verified.target["checks"]} == dict.fromkeys(
        ("rules", "routes", "proxy", "families", "rivals"), True
    )
    counted = {each["rule"]: each["packets"] for each in weir.json("status", *here).target["counters"]}
    assert counted["outbound-redirect"] >= 2
    assert generation(pod) == number

    pod.nft("delete chain inet weir-pod nat-pre; add rule inet weir-pod nat-out tcp dport 25 accept")
    pod.command("ip", "rule", "del", "pref", "32764")
    broken = weir("verify", *here)
    assert broken.code == 1
    assert "  not rules     " in broken.out
    assert "  not routes    1 missing\n" in broken.out
    assert "proxy in" not in broken.out
    assert broken.out.endswith(f"`weir diff --netns {pod.name}` shows what is missing\n")
    shown = weir("diff", *here)
    assert shown.code == 1
    assert "    - tcp dport 25 " in shown.out
    assert weir("apply", *here).code == 0
    assert weir("verify", *here).code == 0

    gone = weir.json("remove", *here)
    assert (gone.code, gone.target["state"]) == (0, "removed")
    assert kernel_state(pod) == before
    assert ways(world, pod) == DIRECT
    assert weir("remove", *here).out == f"unchanged  {pod.name}: nothing of Weir is there\n"


def test_a_target_without_its_proxy_waits(pod: Host, weir: Command) -> None:
    before = kernel_state(pod)
    done = weir("apply", "--netns", pod.name)
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith(f"waiting    {pod.name}: nothing listens on tcp port 15001")
    assert "start the proxy" in done.out.splitlines()[-1]
    assert f"start the proxy in {pod.name}" in weir("verify", "--netns", pod.name).out.splitlines()[-2]
    assert "makes it so once the proxy answers" in weir("diff", "--netns", pod.name).out.splitlines()[-1]
    assert kernel_state(pod) == before
    assert weir.json("apply", "--netns", pod.name, *AT_ONCE).target["state"] == "degraded"
    # Where rules and routes are as wanted, nothing leads to a diff that shows nothing.
    said = weir("verify", "--netns", pod.name, *AT_ONCE).out
    assert f"start the proxy in {pod.name}" in said.splitlines()[-1]
    assert "weir diff" not in said


def test_a_namespace_by_name_path_process_and_file(pod: Host, weir: Command, proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(f'[defaults]\ndns = false\n[[target]]\nname = "web"\nnetns = "{pod.name}"\ndns = true\n')
    process = pod.spawn(["sleep", "600"])
    assert weir("apply", "--netns", str(pod.path)).code == 0
    for each in (pod.name, str(pod.path), f"pid:{process.pid}"):
        found = weir.json("verify", "--netns", each)
        assert (found.code, found.target["netns"], found.target["target"]) == (0, each, each)
    of_the_file = weir.json("verify", "--file", str(file))
    assert (of_the_file.code, of_the_file.target["target"]) == (0, "web")
    assert weir("diff", "--file", str(file), "web", "--set", "dns=false").code == 1
    # A namespace that the file names has that target's settings, any other one the file's defaults.
    assert weir.json("diff", "--file", str(file), "--netns", pod.name).target["target"] == "web"
    assert weir("diff", "--file", str(file), "--netns", f"pid:{process.pid}").code == 1


def test_status_lists_streams_that_stay_outside_and_that_drain(
    world: World, pod: Host, weir: Command, proxy: Proxy
) -> None:
    here = ("--netns", pod.name)
    with ExitStack() as stack:
        kept = [stack.enter_context(Stream(pod, world.outside, (world.outside.address(f), 0))) for f in FAMILIES]
        assert weir.json("apply", *here).target["kept_count"] == 2
        status = weir.json("status", *here)
        assert (status.code, status.json["daemon"], status.target["kept_count"]) == (0, None, 2)
        assert all(any(address in each for each in status.target["kept"]) for address in ("10.99.0.2:", "[fd99::2]:"))
        shown = weir("status", *here).out
        assert shown.splitlines()[0] == "1 of 1 targets captured; no daemon is running"
        assert f"\n{pod.name}: 2 streams outside\n  10.0.1.2:" in shown

        captured = stack.enter_context(Stream(pod, world.outside, (world.outside.v4, 0)))
        assert captured.captured
        with weir.started("remove", *here, "--drain", "600", "--output", "json") as removing:

            def draining() -> list[str]:
                return list(weir.json("status", *here).target["draining"])

            eventually(draining, "the release waits for a stream", slow(20))
            assert any("to 10.99.0.2:" in each for each in draining())
            shown = weir("status", *here).out
            assert "draining" in shown.splitlines()[2]
            assert f"{pod.name}: " in shown
            assert alive([*kept, captured]) == ["alive"] * 3
            assert removing.poll() is None
            captured.finish()
            out, _ = removing.communicate(timeout=slow(20))
        assert removing.returncode == 0
        assert json.loads(out)["targets"][0]["state"] == "removed"
        assert alive(kept) == ["alive"] * 2


def test_hundreds_of_namespaces_in_one_go_some_of_which_go_away(weir: Command, tmp_path: Path) -> None:
    with ExitStack() as stack:
        places = [stack.enter_context(Namespace.create("many")) for _ in range(MANY)]
        file = tmp_path / "many.toml"
        text = "".join(f'[[target]]\nname = "t{n}"\nnetns = "{each.name}"\n' for n, each in enumerate(places))
        file.write_text(f'[defaults]\nwhen_proxy_absent = "capture"\n{text}')
        asked = ("--file", str(file))

        def tables(place: Namespace) -> str:
            return place.command("nft", "list", "tables")

        with weir.started("apply", *asked, "--output", "json") as applying:
            eventually(lambda: tables(places[0]), "the first one is captured", slow(20))
            for each in places[-LOST:]:
                each.delete()
            out, err = applying.communicate(timeout=slow(60))
        assert (applying.returncode, err) == (2, "")
        states = [each["state"] for each in json.loads(out)["targets"]]
        assert states == ["degraded"] * (MANY - LOST) + ["failed"] * LOST
        assert f"/run/netns/{places[-1].name} does not exist" in out
        assert all("weir-pod" in tables(each) for each in places[:-LOST])

        # On a terminal progress is shown, and where a line went wrong it is in red; elsewhere there is neither.
        with Session(weir, "diff", *asked) as session:
            assert session.end(slow(40)) == 2
            assert "targets" in session.output.partition("t0 ")[0]
            assert "\x1b[31mfailed" in session.output
        with Session(weir, "verify", *asked, environment={"NO_COLOR": "1"}) as session:
            assert session.end(slow(40)) == 2
            assert "\x1b[3" not in session.output
        names = [f"t{n}" for n in range(MANY - LOST)]
        done = weir("remove", *asked, *names)
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out
        assert [line.split()[:2] for line in done.out.splitlines()] == [["removed", name] for name in names]
        assert not any(tables(each) for each in places[:-LOST])


def test_a_table_that_holds_more_than_weirs_is_shown_and_cleaned(pod: Host, weir: Command, proxy: Proxy) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    pod.nft("add set inet weir-pod theirs { type ipv4_addr; }; add chain inet weir-pod mine; ")
    shown = weir("diff", "--netns", pod.name)
    assert shown.code == 1
    assert "theirs" in shown.out
    assert "mine" in shown.out
    assert weir("apply", "--netns", pod.name).code == 0
    assert "theirs" not in pod.command("nft", "list", "ruleset")


def test_a_user_without_root_is_told_so(weir: Command) -> None:
    nobody = Command(weir.directory, ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    for command in ("diff", "verify", "status", "wait", "apply", "remove", "confirm", "daemon"):
        done = nobody(command)
        assert (done.code, done.out) == (2, "")
        assert "needs root (this is user 65534)" in done.err


def test_python_started_without_a_terminal_or_streams_still_works(pod: Host, weir: Command, proxy: Proxy) -> None:
    line = 'exec 0<&- 1>&- 2>&-; exec "$0" apply --netns "$1"'
    done = subprocess.run(["sh", "-c", line, weir.argv()[0], pod.name], env=weir.environ, check=False)
    assert done.returncode == 0
    assert weir("verify", "--netns", pod.name).code == 0
