"""Workloads and namespaces of Kubernetes manifests: what makes pods, whatever its kind, and what its pods will be like.

Pods, what has a pod template in ``spec.template`` (custom kinds, too), CronJobs and PodTemplates make pods. Lists are
opened. Everything else is counted by kind. What can't be read becomes a `Problem`, and the rest is read all the same.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.sources.kubernetes.facts import FieldError, Namespace, Pod, mapping, pod_of_template, texts
from agent.sources.kubernetes.yaml_text import Document
from rulesets.settings import shown

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}", re.ASCII)
_PART = re.compile(
    r"""\.?(?P<name>[^.\[\]]+)|\[(?P<number>\d+)\]|\[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]""", re.ASCII
)
_TEMPLATE = "spec.template."
_TEMPLATES = {"Pod": "", "CronJob": "spec.jobTemplate.spec.template.", "PodTemplate": "template."}
_MAKE_PODS = frozenset("Deployment ReplicaSet ReplicationController StatefulSet DaemonSet Job".split())
# As in istio/istio, pkg/kube/inject: what asks for a sidecar when the pod is made.
_INJECT = "sidecar.istio.io/inject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands: a file, the number of its document, from 1, and a line."""

    file: str
    document: int
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} (document {self.document})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that can't be read: where, whose it is as far as known, and why."""

    place: Place
    reason: str
    workload: str = ""

    def __str__(self) -> str:
        whose = f"{self.workload}: " if self.workload else ""
        return f"{self.place}: {whose}{self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What makes pods: its name as ``kind/namespace/name``, and a pod as it will be. `template` is the pod's path."""

    name: str
    pod: Pod
    place: Place
    template: str
    document: Document = field(repr=False, compare=False)
    inside: tuple[str | int, ...] = ()

    def place_of(self, path: str) -> Place:
        """Return where a field of the workload stands."""
        return _place(self.place.file, self.document, self.inside, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """All that was read. `others` counts what makes no pods by its kind."""

    workloads: tuple[Workload, ...] = ()
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Found:
    default_namespace: str
    workloads: dict[str, Workload] = field(default_factory=dict)
    namespaces: dict[str, tuple[Namespace, Place]] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def manifests_of(found: Iterable[tuple[str, Document]], *, namespace: str = "default") -> Manifests:
    """Return what documents say, each with the name of its file. What names no namespace is of the one given."""
    reading = _Found(default_namespace=namespace)
    for file, document in found:
        for inside, value in _objects(document.value):
            try:
                _read(reading, file, document, inside, value)
            except FieldError as error:
                place = _place(file, document, inside, error.path)
                reading.problems.append(Problem(place=place, reason=str(error), workload=_whose(value)))
    return Manifests(
        workloads=tuple(reading.workloads.values()),
        namespaces={name: each for name, (each, _) in reading.namespaces.items()},
        others=dict(sorted(reading.others.items())),
        problems=tuple(reading.problems),
    )


def injected(pod: Pod, namespace: Namespace | None) -> str:
    """Return what asks for a sidecar in such a pod; empty when nothing does."""
    asked = pod.labels.get(_INJECT, pod.annotations.get(_INJECT))
    if asked is not None:
        return f"{_INJECT}={asked}" if asked == "true" else ""
    labels = namespace.labels if namespace is not None else {}
    if labels.get("istio-injection") == "enabled":
        return "istio-injection=enabled on the namespace"
    return f"istio.io/rev={labels['istio.io/rev']} on the namespace" if "istio.io/rev" in labels else ""


def _objects(value: object, inside: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Return the objects of a document, those of lists each with its way there."""
    if isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
        for number, each in enumerate(value["items"]):
            yield from _objects(each, (*inside, "items", number))
    else:
        yield inside, value


def _read(reading: _Found, file: str, document: Document, inside: tuple[str | int, ...], value: object) -> None:
    if not isinstance(value, dict):
        raise FieldError("the document", value, "wants an object with apiVersion and kind")
    kind = value.get("kind")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise FieldError("kind", kind, "is missing" if kind is None else "is no kind of object")
    place = _place(file, document, inside, "kind")
    if kind == "Namespace":
        metadata = mapping("metadata", value.get("metadata"))
        name = _checked("metadata.name", metadata.get("name"))
        if name in reading.namespaces:
            raise FieldError("metadata.name", name, f"is defined twice, first in {reading.namespaces[name][1]}")
        found = Namespace(name=name, labels=texts("metadata.labels", metadata.get("labels")))
        reading.namespaces[name] = (found, place)
        return
    under = _template_of(kind, value)
    if under is None:
        reading.others[kind] = reading.others.get(kind, 0) + 1
        return
    metadata = mapping("metadata", value.get("metadata"))
    namespace = metadata.get("namespace")
    namespace = reading.default_namespace if namespace is None else _checked("metadata.namespace", namespace)
    name = _name_of(metadata)
    template = value
    for part in under.split(".")[:-1]:
        template = dict(mapping(under.rstrip("."), template.get(part)))
    if template.get("spec") is None:
        raise FieldError(f"{under}spec", None, "is missing, and what makes pods has one")
    workload = Workload(
        name=f"{kind.lower()}/{namespace}/{name}",
        pod=pod_of_template(namespace, name, template, under),
        place=place,
        template=under,
        document=document,
        inside=inside,
    )
    if workload.name in reading.workloads:
        first = reading.workloads[workload.name].place
        raise FieldError("metadata.name", name, f"{workload.name} is defined twice, first in {first}")
    reading.workloads[workload.name] = workload


def _template_of(kind: str, value: Mapping[str, object]) -> str | None:
    """Return where an object has its pod, ending in a dot; None where it makes none."""
    if kind in _TEMPLATES:
        return _TEMPLATES[kind]
    if kind in _MAKE_PODS:
        return _TEMPLATE
    inner: object = value
    for part in ("spec", "template", "spec", "containers"):
        inner = inner.get(part) if isinstance(inner, dict) else None
    return _TEMPLATE if isinstance(inner, list) else None


def _name_of(metadata: Mapping[str, object]) -> str:
    """Return an object's name; of one whose name is made up by the API, what it begins with and a star."""
    name, generated = metadata.get("name"), metadata.get("generateName")
    if name is None and isinstance(generated, str) and _NAME.fullmatch(generated.rstrip("-")):
        return f"{generated}*"
    return _checked("metadata.name", name)


def _checked(path: str, value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise FieldError(path, value, "is missing" if value is None else "is no name that Kubernetes allows")
    return value


def _whose(value: object) -> str:
    """Return how an object calls itself, as far as that can be read."""
    kind, metadata = (value.get("kind"), value.get("metadata")) if isinstance(value, dict) else (None, None)
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{kind} {shown(name)}" if isinstance(kind, str) and _KIND.fullmatch(kind) and isinstance(name, str) else ""


def _place(file: str, document: Document, inside: tuple[str | int, ...], path: str) -> Place:
    keys: list[str | int] = []
    for part in _PART.finditer(path):
        number = part["number"]
        keys.append(int(number) if number is not None else part["quoted"] or part["name"] or "")
    return Place(file=file, document=document.number, line=document.line_of(*inside, *keys))
