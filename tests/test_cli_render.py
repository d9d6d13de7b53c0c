"""`weir render`: the rules as text and as JSON, without root; and the example file that is installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rulesets import nft, pod
from rulesets.capture import Capture

ROOT = Path(__file__).parent.parent
WEIR = str(Path(sys.executable).with_name("weir"))
EXAMPLE = (ROOT / "deploy" / "weir.toml").read_text()
# Lines of the example that are a setting, commented out.
SETTING = re.compile(r"^# (?=\w+ = )(?P<line>[^#\n]*)", re.MULTILINE)
DEFAULTS = EXAMPLE.partition("# One [[target]]")[0]


def render(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As nobody, where the tests run as root."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*nobody, WEIR, "render", *arguments],
        env={"PATH": os.environ["PATH"], "WEIR_RUN_DIR": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def file(public_folder: Path) -> Path:
    """A file that nobody can read."""
    path = public_folder / "weir.toml"
    path.write_text("[defaults]\ndns = false\n" + "".join(f'[[target]]\nname = "{n}"\nnetns = "{n}"\n' for n in "ab"))
    return path


def test_the_text_is_the_ruleset() -> None:
    done = render(
        "--set", "dns=false", "--set", 'exclude_outbound_networks=["10.0.0.0/8"]', "--set", "established=reset"
    )
    wanted = pod.build(Capture.parse({"dns": False, "exclude_outbound_networks": ["10.0.0.0/8"]}))
    assert (done.returncode, done.stdout, done.stderr) == (0, nft.render(wanted), "")


def test_json_is_the_ruleset(file: Path) -> None:
    done = render("--file", str(file), "a", "--format", "json")
    assert nft.parse(done.stdout, "weir-pod") == pod.build(Capture(dns=False))


def test_several_targets_each_have_a_heading(file: Path) -> None:
    done = render("--file", str(file))
    rules = nft.render(pod.build(Capture(dns=False)))
    assert done.stdout == f"# target a, netns 'a'\n{rules}# target b, netns 'b'\n{rules}"


def test_several_targets_in_one_document(file: Path) -> None:
    targets = json.loads(render("--file", str(file), "--output", "json").stdout)["targets"]
    assert [(each["target"], each["netns"]) for each in targets] == [("a", "a"), ("b", "b")]
    assert all(nft.parse(json.dumps(each["rules"]), "weir-pod") == pod.build(Capture(dns=False)) for each in targets)
    refused = render("--file", str(file), "--format", "json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "weir: render --format json: wants one target, and these are 2: a, b\n  name one\n"


def test_the_host_has_a_table_of_its_own_and_only_its_own_connections() -> None:
    wanted = pod.build(Capture(inbound=False, dns=False, proxy_user=0), table="weir-host")
    assert render("--netns", "host", "--set", 'proxy_user="root"').stdout == nft.render(wanted)


def test_a_cgroup_is_shown_by_its_path() -> None:
    done = render("--netns", "host", "--set", 'proxy_cgroup="system.slice/proxy.service"')
    assert 'socket cgroupv2 level 2 "system.slice/proxy.service" counter name "proxy-by-cgroup"' in done.stdout


def test_the_example_file_names_no_target(tmp_path: Path) -> None:
    done = render("--file", str(ROOT / "deploy" / "weir.toml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no target" in done.stderr


def test_the_example_file_shows_the_defaults(file: Path) -> None:
    shown = {found["line"].split()[0]: found["line"] for found in SETTING.finditer(DEFAULTS)}
    assert len(shown) >= 25
    file.write_text('[[target]]\nname = "web"\nnetns = "web"\n')
    plain = render("--file", str(file)).stdout
    assert plain
    for name in ("proxy_user", "proxy_cgroup", "kept_deadline", "families"):  # not set unless a user does
        assert "not set" in EXAMPLE[EXAMPLE.index(f"# {name} = ") :].partition("\n")[0].lower()
        del shown[name]
    file.write_text("[defaults]\n" + "\n".join(shown.values()) + '\n[[target]]\nname = "web"\nnetns = "web"\n')
    done = render("--file", str(file))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", plain)


def test_the_targets_of_the_example_file_can_be_used(file: Path) -> None:
    file.write_text(re.sub(r"^# ?(?=\[\[|\w+ = )", "", EXAMPLE, flags=re.MULTILINE))
    done = render("--file", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "# target web, netns 'web'\n" in done.stdout
    assert "# target batch, netns 'pid:4711'\n" in done.stdout


def test_a_file_that_can_be_read_only_once_gives_its_targets_and_its_defaults() -> None:
    text = '[defaults]\noutbound_port = 15101\n[[target]]\nname = "web"\nnetns = "w"\noutbound_port = 15201\n'
    argv = [WEIR, "render", "--file", "/dev/stdin", "--netns", "w", "--netns", "x", "--netns", "y"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True)
    found = [set(re.findall(r":(15[12]01)", part)) for part in done.stdout.split("# target ")[1:]]
    assert found == [{"15201"}, {"15101"}, {"15101"}]
