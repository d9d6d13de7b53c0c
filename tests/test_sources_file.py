"""The target file: what a good one means, and how a bad one is told, with file, line, target, setting and value."""

import os
import pwd
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.sources.file import TargetFile, load, parse, read
from agent.targets import Captured, Target
from rulesets.capture import Capture, ProxyAbsent

TARGET = '[[target]]\nname = "web"\nnetns = "web"\n'


def capture_of(target: Target) -> Capture:
    assert isinstance(target.wish, Captured)
    return target.wish.capture


def only(text: str) -> Capture:
    (target,) = parse(text, "weir.toml").targets
    return capture_of(target)


def test_targets_come_in_the_files_order() -> None:
    text = "".join(f'[[target]]\nname = "{name}"\nnetns = "{netns}"\n' for name, netns in GOOD)
    found = parse(text, "weir.toml").targets
    assert [(each.name, each.netns) for each in found] == GOOD
    assert all(isinstance(each.wish, Captured) for each in found)


GOOD = [("web", "web"), ("a.b-c_1", "/run/docker/netns/0123"), ("7", "pid:4711"), ("x" * 63, "x y"), ("node", "host")]


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", "[defaults]\n", "target = []\n", "\n\n[defaults]\ndns = false\n"]
)
def test_a_file_without_targets_is_good(text: str) -> None:
    assert parse(text, "weir.toml").targets == ()


def test_settings_come_from_the_target_then_the_defaults_then_weir() -> None:
    first, second, third = parse(
        '[defaults]\noutbound_port = 1\ndns = false\nwhen_proxy_absent = "capture"\n'
        f'{TARGET}outbound_port = 2\n[[target]]\nname = "db"\nnetns = "db"\ndns = true\n'
        '[[target]]\nname = "other"\nnetns = "other"\n',
        "weir.toml",
    ).targets
    assert [capture_of(each).outbound_port for each in (first, second, third)] == [2, 1, 1]
    assert [capture_of(each).dns for each in (first, second, third)] == [False, True, False]
    assert {capture_of(each).when_proxy_absent for each in (first, second, third)} == {ProxyAbsent.CAPTURE}
    assert {capture_of(each).inbound_port for each in (first, second, third)} == {Capture().inbound_port}
    assert only(TARGET) == Capture()


def test_defaults_may_stand_behind_the_targets() -> None:
    assert only(f"{TARGET}[defaults]\noutbound_port = 77\n").outbound_port == 77


def test_a_host_captures_what_it_opens_itself() -> None:
    host = TARGET.replace('netns = "web"', 'netns = "host"')
    assert (only(host).outbound, only(host).inbound, only(host).dns) == (True, False, False)
    assert only(f"{host}dns = true\n").dns
    assert only(f"[defaults]\ninbound = true\n{host}").inbound
    assert only(TARGET).inbound


def test_a_user_may_be_named() -> None:
    user = pwd.getpwall()[-1]
    assert only(f'{TARGET}proxy_user = "{user.pw_name}"\n').proxy_user == user.pw_uid
    assert only(f'[defaults]\nproxy_user = "{user.pw_name}"\n{TARGET}').proxy_user == user.pw_uid
    assert only(f"{TARGET}proxy_user = {user.pw_uid}\n").proxy_user == user.pw_uid


def test_inline_and_dotted_writing_is_toml_too() -> None:
    assert only('target = [{name = "web", netns = "web", outbound_port = 9}]\n').outbound_port == 9
    assert only(f"defaults.outbound_port = 9\n{TARGET}").outbound_port == 9


BAD = {
    "broken": (f"{TARGET}dns =\n", ":4: Invalid value (column 6)"),
    "not closed": (f'{TARGET}proxy_user = "abc', ":4: "),
    "a key twice": (f'{TARGET}name = "x"\n', ":4: Cannot overwrite a value"),
    "another table": (f"{TARGET}[settings]\ndns = true\n", ":4: settings = "),
    "a key at the top": (f"dns = true\n{TARGET}", ":1: dns = true: only [defaults] and [[target]] stand at the top"),
    "one target's brackets": ('[target]\nname = "web"\nnetns = "web"\n', ":1: target = "),
    "targets that are none": ("target = [1, 2]\n", ":1: target = [1, 2]: wants [[target]] tables"),
    "defaults that are none": ("defaults = 3\n", ":1: defaults = 3: wants a [defaults] table"),
    "no name": ('[[target]]\nnetns = "web"\n', ":1: target number 1: name is missing"),
    "no netns": (f'{TARGET}[[target]]\nname = "x"\n', ":4: target number 2: netns is missing"),
    "a name that is none": (
        f'{TARGET}[[target]]\nname = 3\nnetns = "x"\n',
        ":5: target number 2: name = 3: wants a text",
    ),
    "a netns that is none": (
        '[[target]]\nname = "a"\nnetns = ["x"]\n',
        ":3: target number 1: netns = ['x']: wants a text",
    ),
    "a name with a blank": ('[[target]]\nname = "a b"\nnetns = "x"\n', ":2: name = 'a b': wants 1 to 63 letters"),
    "a long name": (f'[[target]]\nname = "{"a" * 64}"\nnetns = "x"\n', ":2: name = "),
    "an empty netns": ('[[target]]\nname = "a"\nnetns = ""\n', ":3: target 'a': netns = ''"),
    "half a path": (
        '[[target]]\nname = "a"\nnetns = "b/c"\n',
        ":3: target 'a': netns = 'b/c': a path must begin with /",
    ),
    "no process": ('[[target]]\nname = "a"\nnetns = "pid:x"\n', ":3: target 'a': netns = 'pid:x': wants a process"),
    "a name twice": (
        f"{TARGET}{TARGET}".replace('netns = "web"', 'netns = "x"', 1),
        ":5: target 'web': name = 'web': is",
    ),
    "a netns twice": (
        f"{TARGET}{TARGET}".replace('name = "web"', 'name = "x"', 1),
        ":6: target 'web': netns = 'web': is",
    ),
    "an unknown key": (f"{TARGET}\noutbund_port = 3\n", ":5: target 'web': outbund_port = 3: "),
    "an unknown default": (f"[defaults]\ndnss = true\n{TARGET}", ":2: defaults: dnss = true: "),
    "a wrong type": (f'{TARGET}dns = "yes"\n', ":4: target 'web': dns = 'yes': wants true or false"),
    "a wrong default": (f"{TARGET}[defaults]\noutbound_port = 70000\n", ":5: defaults: outbound_port = 70000: is not"),
    "a port of the second": (
        f'{TARGET}outbound_port = 4\n[[target]]\nname = "db"\nnetns = "db"\n\n"outbound_port" = 0\n',
        ":9: target 'db': outbound_port = 0: is not within 1 to 65535",
    ),
    "a network": (
        f'{TARGET}exclude_outbound_networks = [\n  "10.0.0.0/99",\n]\n',
        ":4: target 'web': exclude_outbound_networks = ",
    ),
    "a default's name": ('[defaults]\nname = "x"\n', ":2: defaults: name belongs into each [[target]]"),
    "no such user": (
        f'{TARGET}proxy_user = "nobody-has-this"\n',
        ":4: target 'web': proxy_user = 'nobody-has-this': there is no such user on this machine",
    ),
    "two together": (f"{TARGET}outbound_port = 15006\n", ":1: target 'web': inbound_port = 15006: outbound_port uses"),
    "defaults at odds": (f"\n[defaults]\noutbound = false\n{TARGET}", ":2: defaults: dns = true: queries are outbound"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "/etc/weir/weir.toml")
    told = str(raised.value)
    assert told.startswith("/etc/weir/weir.toml:"), told
    assert told.split(":")[1].isdigit(), told
    assert said in told


@pytest.mark.parametrize(
    ("key", "right"), [("outbund_port", "outbound_port"), ("exclude_interface", "exclude_interfaces")]
)
def test_the_nearest_right_key_is_named(key: str, right: str) -> None:
    for text in (f"{TARGET}{key} = 3\n", f"[defaults]\n{key} = 3\n"):
        with pytest.raises(ConfigError, match=rf"{key} = 3: .*{right}"):
            parse(text, "weir.toml")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    with pytest.raises(ConfigError, match=r"weir\.toml: there is no such file") as raised:
        load(path)
    assert "--file" in raised.value.hint
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    path.write_bytes(b'[[target]]\nname = "\xff"\n')
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 19\)"):
        read(path)
    path.write_text(f"x = {'[' * 10000}")
    with pytest.raises(ConfigError, match=r"weir\.toml: is nested too deeply"):
        load(path)


def test_a_file_is_read_once_for_targets_and_defaults(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as writer:
        writer.submit(path.write_text, f"[defaults]\ndns = false\n{TARGET}")
        found = load(path)
    assert found == TargetFile(targets=found.targets, defaults={"dns": False})
    assert [each.name for each in found.targets] == ["web"]
