"""YAML as kubectl reads it, with lines, and texts that are made to eat a machine."""

import json
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources.kubernetes.yaml_text import DEEPEST, MOST, Number, YamlError, documents


def values(text: str) -> list[object]:
    return [each.value for each in documents(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("---\n---\n# nothing\n", []),
        ("a: 1", [{"a": Number(written="1")}]),
        ("a: b\n---\nc: d\n", [{"a": "b"}, {"c": "d"}]),
        ("- a\n- - b\n  - c: d\n", [["a", ["b", {"c": "d"}]]]),
        ("a:\nb: ~\nc: null\nd: ''\n", [{"a": None, "b": None, "c": None, "d": ""}]),
        ("a: yes\nb: Off\nc: 'yes'\nd: y\n", [{"a": True, "b": False, "c": "yes", "d": True}]),
        ("a: !!str 80\nb: !!bool true\nc: !!int '7'\n", [{"a": "80", "b": True, "c": Number(written="7")}]),
        ("[0x1F, 1e3, .inf, 1_0, -7]", [[Number(written=each) for each in ("0x1F", "1e3", ".inf", "1_0", "-7")]]),
        # Not what YAML 1.1 would make of them: kubectl takes a time and a port with a host for texts, too.
        ("a: 2001-12-14\nb: 22:22\nc: 80,443\n", [{"a": "2001-12-14", "b": "22:22", "c": "80,443"}]),
        ("8080: a\ntrue: b\n", [{"8080": "a", "true": "b"}]),
        ("a: |\n  80\n  443\n", [{"a": "80\n443\n"}]),
        ("a: &x {b: c}\nd: *x\n", [{"a": {"b": "c"}, "d": {"b": "c"}}]),
        ("a: &x {b: b, c: d}\ne: {<<: *x, b: f}\n", [{"a": {"b": "b", "c": "d"}, "e": {"b": "f", "c": "d"}}]),
        ("- &x {a: b}\n- &y {c: d}\n- <<: [*x, *y]\n", [[{"a": "b"}, {"c": "d"}, {"a": "b", "c": "d"}]]),
        ('{\n\t"a": "b",\n\t"c": [true]\n}\n', [{"a": "b", "c": [True]}]),
    ],
)
def test_values(text: str, expected: list[object]) -> None:
    assert values(text) == expected


def test_each_field_has_its_line() -> None:
    (first, second) = documents("# one\na: b\n---\n\nc:\n  d:\n    - e: 1\n    - f: 2\n'x.y/z': 3\n")
    assert (first.number, first.line, second.number, second.line) == (1, 2, 2, 5)
    assert second.line_of("c", "d") == 6
    assert second.line_of("c", "d", 1, "f") == 8
    assert second.line_of("x.y/z") == 9
    assert second.line_of("c", "nothing", "there") == 5


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: b\n c: d\n", 2, "is not YAML: mapping values are not allowed in this context"),
        ("a: [1, 2\n", 2, "is not YAML: did not find expected ',' or ']'"),
        ("\n\na: {{ .Values.x }}\n", 3, "has a key that is no text"),
        ("a: 1\nb: 2\na: 3\n", 3, "has 'a' twice (first in line 1)"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            1,
            "has the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !Ref x\n", 1, "has the tag '!Ref', which Kubernetes doesn't know"),
        ("a: !!binary aGk=\n", 1, "has the tag 'tag:yaml.org,2002:binary'"),
        ("a: *nobody\n", 1, "refers to 'nobody', which is not anchored before"),
        ("a: &a [*a]\n", 1, "refers to 'a', which is not anchored before"),
        ("? [a]\n: b\n", 1, "has a key that is no text"),
        ("a: {<<: 7}\n", 1, "merges (<<) something other than fields"),
        ("a: \x01\n", 1, "is not YAML: "),
    ],
)
def test_what_cant_be_read_has_a_line_and_a_reason(text: str, line: int, said: str) -> None:
    with pytest.raises(YamlError) as refused:
        values(text)
    assert (refused.value.line, refused.value.reason[: len(said)]) == (line, said)


def test_documents_before_a_bad_one_are_read() -> None:
    found = documents("a: b\n---\n}\n")
    assert next(found).value == {"a": "b"}
    with pytest.raises(YamlError):
        next(found)


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30))
BOMBS = {
    "laughs": (LAUGHS, f"holds more than {MOST} values"),
    "merges": (MERGES, f"holds more than {MOST} values"),
    "deep lists": ("[" * 1_000_000, f"is nested more than {DEEPEST} levels deep"),
    "deep fields": ("{a: " * 100_000, f"is nested more than {DEEPEST} levels deep"),
    "deep blocks": ("".join(f"{' ' * n}a:\n" for n in range(2_000)), f"is nested more than {DEEPEST} levels deep"),
    "wide": (f"[{'1,' * (MOST + 1)}]", f"holds more than {MOST} values"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_cost_anything(name: str) -> None:
    text, said = BOMBS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(YamlError) as refused:
        values(text)
    assert refused.value.reason.startswith(said)
    # What they stand for would take millions of times more.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def plain(value: object) -> object:
    match value:
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case Number():
            return json.loads(value.written)
        case _:
            return value


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))
)
JSON = st.dictionaries(
    st.text("abc./-_", max_size=8),
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("xyz"), inner, max_size=4)
    ),
    min_size=1,
)


@settings(deadline=None, database=None)
@given(value=JSON)
def test_json_is_read_as_json(value: dict[str, object]) -> None:
    assert [plain(each) for each in values(json.dumps(value, ensure_ascii=False))] == [value]


@settings(deadline=None, database=None)
@given(text=st.text() | st.from_regex(r"([-:{}\[\]&*!|>'\",#?% \na-c0-9<~]){0,60}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        for each in documents(text):
            each.line_of("a", 0, "b")
    except YamlError as error:
        refused = error
        assert refused.line >= 1
