"""What the plugin reaches the API with: whole at any instant, for nobody else to read, and gone after uninstalling."""

import json
from pathlib import Path

import pytest

from agent.cni import kubeconfig
from agent.cni.kubeconfig import Credentials
from agent.errors import ConfigError

GIVEN = Credentials(server="https://10.96.0.1:443", authority="-----BEGIN CERTIFICATE-----\n", token="ey.1")  # noqa: S106


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    return {each.name: (each.stat().st_mode & 0o777, each.stat().st_ino) for each in folder.iterdir()}


def test_it_is_written_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run/weir"
    path = kubeconfig.write(folder, GIVEN)
    document = json.loads(path.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    assert cluster["server"] == GIVEN.server
    assert Path(cluster["certificate-authority"]).read_text() == GIVEN.authority
    assert Path(user["tokenFile"]).read_text() == GIVEN.token
    context = {"cluster": document["clusters"][0]["name"], "user": document["users"][0]["name"]}
    assert document["contexts"] == [{"name": document["current-context"], "context": context}]
    before = seen(folder)
    assert {mode for mode, _ in before.values()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kubeconfig.write(folder, GIVEN) == path
    assert seen(folder) == before, "nothing was written that was there"


def test_a_new_token_changes_one_file(tmp_path: Path) -> None:
    kubeconfig.write(tmp_path, GIVEN)
    before = seen(tmp_path)
    kubeconfig.write(tmp_path, Credentials(server=GIVEN.server, authority=GIVEN.authority, token="ey.2"))  # noqa: S106
    after = seen(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"cni-token"}
    assert (tmp_path / "cni-token").read_text() == "ey.2"


def test_what_others_have_broken_is_put_right(tmp_path: Path) -> None:
    path = kubeconfig.write(tmp_path, GIVEN)
    whole = path.read_text()
    path.write_text(whole[:20])
    (tmp_path / "cni-token").unlink()
    kubeconfig.write(tmp_path, GIVEN)
    assert path.read_text() == whole
    assert (tmp_path / "cni-token").read_text() == GIVEN.token


def test_it_goes_without_a_trace(tmp_path: Path) -> None:
    kubeconfig.write(tmp_path, GIVEN)
    kubeconfig.remove(tmp_path)
    assert seen(tmp_path) == {}
    kubeconfig.remove(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/run: can't be made"):
        kubeconfig.write(tmp_path / "file/run", GIVEN)
