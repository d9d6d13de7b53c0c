"""Network configurations as text: the plugin's entry put into one and taken out again, the rest kept to the byte.

A conflist is a JSON object with a name, a cniVersion and a list of plugins, which run in that order. What others wrote
is never written anew: their keys, their order and their blanks mean something to whoever compares files.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from agent.errors import ConfigError
from rulesets.settings import shown

PLUGIN = "weir-cni"  # type of the entry, and name of the program
ISTIO_PLUGIN = "istio-cni"
SUFFIXES = (".conf", ".conflist", ".json")  # as containerd (go-cni) and CRI-O (ocicni) read a folder
_NEWEST = (1, 1, 0)  # CNI version that the plugin speaks
_WRAPPED_VERSION = "0.3.1"  # the first that knows chains; as Istio wraps a configuration without one
_WRAPPED_NAME = "k8s-pod-network"  # likewise
_BLANKS = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_constant=lambda text: _not_json(f"{text} is no JSON"))


def of_text(text: str, *, single: bool) -> Mapping[str, object]:
    """Return a configuration, a conflist or a `single` plugin. Raises `ConfigError` for what no runtime can use."""
    try:
        document = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError("is no JSON object")
    for plugin in [document] if single else _plugins(document):
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise ConfigError(f"has a plugin without a type: {shown(plugin)}")
    if not single and (not isinstance(document.get("name"), str) or not document["name"]):
        raise ConfigError("has no name")
    return document


def types(document: Mapping[str, object]) -> tuple[str, ...]:
    """Return the types of a configuration's plugins, in the order in which they run."""
    plugins = _plugins(document) if "plugins" in document else [document]
    return tuple(str(each["type"]) for each in plugins if isinstance(each, dict))


def chained(text: str, entry: Mapping[str, object]) -> str:
    """Return a conflist with an entry of `PLUGIN` behind those of others. The text itself where it is so already.

    One that stands there keeps its place: who comes after it wants to be last too. Raises `ConfigError`.
    """
    document = of_text(text, single=False)
    _check_version(document)
    ours = [at for at, kind in enumerate(types(document)) if kind == PLUGIN]
    if len(ours) != 1 or ours == [0]:
        return _with_last(unchained(text), json.dumps(entry))
    if _plugins(document)[ours[0]] == entry:
        return text
    start, end = list(_item_spans(text, _plugins_start(text)))[ours[0]]
    return f"{text[:start]}{json.dumps(entry)}{text[end:]}"


def unchained(text: str) -> str:
    """Return a conflist without the entries of `PLUGIN`; what is left is what was there. Raises `ConfigError`."""
    document = of_text(text, single=False)
    while PLUGIN in types(document):
        spans = list(_item_spans(text, _plugins_start(text)))
        at = types(document).index(PLUGIN)
        if at > 0:
            start, end = spans[at - 1][1], spans[at][1]  # the comma goes with it
        else:
            start, end = spans[0][0], spans[1][0] if len(spans) > 1 else spans[0][1]
        text = text[:start] + text[end:]
        document = _DECODER.decode(text)
    return text


def wrapped(text: str, entry: Mapping[str, object]) -> str:
    """Return a conflist of a single plugin's configuration, which stays as it is, and an entry. Raises `ConfigError`.

    Its network keeps its name: host-local and others keep their leases under it.
    """
    document = of_text(text, single=True)
    _check_version(document)
    version = document.get("cniVersion") or _WRAPPED_VERSION
    if _version(version) < _version(_WRAPPED_VERSION):
        version = _WRAPPED_VERSION
    name = json.dumps(document.get("name") or _WRAPPED_NAME)
    head = f'{{\n  "name": {name},\n  "cniVersion": {json.dumps(version)},\n  "plugins": [\n'
    return f"{head}{text.strip()},\n{json.dumps(entry)}\n  ]\n}}\n"


def _plugins(document: Mapping[str, object]) -> Sequence[object]:
    plugins = document.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise ConfigError("has no plugins")
    return plugins


def _check_version(document: Mapping[str, object]) -> None:
    several = document.get("cniVersions")  # of which the runtime takes the newest that it knows
    for version in (document.get("cniVersion") or _WRAPPED_VERSION, *(several if isinstance(several, list) else ())):
        if _version(version) > _NEWEST:
            newest = ".".join(map(str, _NEWEST))
            raise ConfigError(
                f"cniVersion = {shown(version)}: {PLUGIN} speaks CNI up to {newest}",
                hint="every pod of the node would fail; let the network's own installer write an older version",
            )


def _version(value: object) -> tuple[int, ...]:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}", value, re.ASCII):
        raise ConfigError(f"cniVersion = {shown(value)}: is no version")
    return tuple(map(int, value.split(".")))


def _with_last(text: str, entry: str) -> str:
    """Return a conflist with one more plugin, set off from the last one as that is from what stands before it."""
    spans = list(_item_spans(text, _plugins_start(text)))
    start, end = spans[-1]
    blanks = text[len(text[:start].rstrip(" \t\n\r")) : start]
    return f"{text[:end]},{blanks}{entry}{text[end:]}"


def _plugins_start(text: str) -> int:
    """Return where the list of plugins begins; the last one where there are several, as JSON readers take it."""
    found = -1
    for key, start in _members(text):
        if key == "plugins":
            found = start
    return found


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Yield each key of a JSON object with where its value begins. The text is known to be one."""
    at = _past_blanks(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _past_blanks(text, _past_blanks(text, at) + 1)  # the colon
        yield key, at
        at = _past_blanks(text, _DECODER.raw_decode(text, at)[1])
        at = _past_blanks(text, at + 1) if text[at] == "," else at


def _item_spans(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Yield where each item of a JSON list begins and ends. `start` is where the list does."""
    at = _past_blanks(text, start + 1)
    while text[at] != "]":
        end = _DECODER.raw_decode(text, at)[1]
        yield at, end
        at = _past_blanks(text, end)
        at = _past_blanks(text, at + 1) if text[at] == "," else at


def _past_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _not_json(reason: str) -> None:
    raise ValueError(reason)
