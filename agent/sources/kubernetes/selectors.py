"""Which pods are meant: selectors of labels, written and understood as Kubernetes and Istio do.

A selector's requirements must all hold. An empty selector holds for everything. `NotIn` holds, too, where there is no
such label (k8s.io/apimachinery/pkg/labels, Requirement.Matches).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from agent.sources.kubernetes.facts import DATAPLANE_MODE, FieldError

_PREFIX = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


class Operator(StrEnum):
    """How a label is compared, by the API's own names."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What one label must be like. `values` is empty for `Exists` and `DoesNotExist` only."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels are so."""
        match self.operator:
            case Operator.IN:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels
            case other:
                assert_never(other)

    def __str__(self) -> str:
        shown = ", ".join(self.values)
        match self.operator:
            case Operator.IN:
                return f"{self.key}={shown}" if len(self.values) == 1 else f"{self.key} in ({shown})"
            case Operator.NOT_IN:
                return f"{self.key}!={shown}" if len(self.values) == 1 else f"{self.key} not in ({shown})"
            case Operator.EXISTS:
                return f"{self.key} is set"
            case Operator.DOES_NOT_EXIST:
                return f"{self.key} is not set"
            case other:
                assert_never(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Requirements that must all hold; none holds for everything."""

    requirements: tuple[Requirement, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Tell whether all of them hold."""
        return all(each.holds(labels) for each in self.requirements)

    def __str__(self) -> str:
        return " and ".join(map(str, self.requirements)) or "anything"


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enablement:
    """One way for a pod to be captured: both of its selectors hold."""

    pod: Selector = EVERYTHING
    namespace: Selector = EVERYTHING

    def __str__(self) -> str:
        both = (("pod", self.pod), ("namespace", self.namespace))
        parts = [(whose, each) for whose, each in both if each.requirements]
        return ", ".join(f"{whose} {each}" for whose, each in parts) or "any pod"


def _mode(operator: Operator, value: str) -> Selector:
    return Selector(requirements=(Requirement(key=DATAPLANE_MODE, operator=operator, values=(value,)),))


# Istio's own (manifests/charts/istio-cni/values.yaml, ambient.enablementSelectors).
DEFAULT_ENABLEMENT = (
    Enablement(pod=_mode(Operator.IN, "ambient")),
    Enablement(pod=_mode(Operator.NOT_IN, "none"), namespace=_mode(Operator.IN, "ambient")),
)


def enablement_of(value: object, path: str = "enablementSelectors") -> tuple[Enablement, ...]:
    """Return what a list of ``{podSelector, namespaceSelector}`` says. Raises `FieldError`.

    A field with another name is refused, which Istio passes over: a mistyped selector would select everything.
    """
    if not isinstance(value, list):
        raise FieldError(path, value, "wants a list of podSelector and namespaceSelector")
    return tuple(_enablement(f"{path}[{number}]", each) for number, each in enumerate(value))


def _enablement(path: str, value: object) -> Enablement:
    fields = _fields(path, value, ("podSelector", "namespaceSelector"))
    return Enablement(
        pod=selector_of(fields.get("podSelector"), f"{path}.podSelector"),
        namespace=selector_of(fields.get("namespaceSelector"), f"{path}.namespaceSelector"),
    )


def selector_of(value: object, path: str) -> Selector:
    """Return what ``matchLabels`` and ``matchExpressions`` say; nothing there is everything. Raises `FieldError`."""
    fields = _fields(path, value, ("matchLabels", "matchExpressions"))
    found: list[Requirement] = []
    labels, expressions = fields.get("matchLabels"), fields.get("matchExpressions")
    for key, wanted in sorted(_fields(f"{path}.matchLabels", labels, None).items()):
        where = f"{path}.matchLabels[{key!r}]"
        found.append(Requirement(key=_key(where, key), operator=Operator.IN, values=(_value(where, wanted),)))
    if expressions is not None and not isinstance(expressions, list):
        raise FieldError(f"{path}.matchExpressions", expressions, "wants a list")
    for number, each in enumerate(expressions or ()):
        found.append(_requirement(f"{path}.matchExpressions[{number}]", each))
    return Selector(requirements=tuple(found))


def _requirement(path: str, value: object) -> Requirement:
    fields = _fields(path, value, ("key", "operator", "values"))
    operator, values = fields.get("operator"), fields.get("values")
    if not isinstance(operator, str) or operator not in list(Operator):
        raise FieldError(f"{path}.operator", operator, f"wants one of {', '.join(Operator)}")
    if values is not None and not isinstance(values, list):
        raise FieldError(f"{path}.values", values, "wants a list")
    compares = Operator(operator) in (Operator.IN, Operator.NOT_IN)
    if compares and not values:
        raise FieldError(f"{path}.values", values, f"is empty, and {operator} compares with something")
    if values and not compares:
        raise FieldError(f"{path}.values", values, f"must be empty: {operator} compares with nothing")
    read = tuple(_value(f"{path}.values[{number}]", each) for number, each in enumerate(values or ()))
    return Requirement(key=_key(f"{path}.key", fields.get("key")), operator=Operator(operator), values=read)


def _fields(path: str, value: object, known: tuple[str, ...] | None) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FieldError(path, value, "wants fields by their names")
    for name in value:
        if known is not None and name not in known:
            raise FieldError(f"{path}.{name}", value[name], f"there is no such field; wants {' or '.join(known)}")
    return value


def _key(path: str, value: object) -> str:
    """Return a label's name (k8s.io/apimachinery/pkg/util/validation, IsQualifiedName)."""
    prefix, slash, word = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not _WORD.fullmatch(word) or (slash and not _PREFIX.fullmatch(prefix)):
        raise FieldError(path, value, "is no name of a label")
    return value


def _value(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise FieldError(path, value, "wants a text: quote it")
    if value and not _WORD.fullmatch(value):
        raise FieldError(path, value, "is no value of a label: letters, digits, - _ . and 63 of them at most")
    return value
