"""The network namespaces of pods: found, checked to be the pods' own, and remembered over a restart.

``sandbox`` has the values and looks at one namespace, ``search`` finds those of many pods in one pass over /proc,
``saved`` keeps them. ``layout`` reads cgroup paths, ``runtimes`` knows sandboxes with a kernel of their own.
"""

from agent.sources.kubernetes.sandboxes.runtimes import foreign_runtime
from agent.sources.kubernetes.sandboxes.sandbox import Sandbox, Unfit, Why, is_there, look
from agent.sources.kubernetes.sandboxes.saved import Sandboxes
from agent.sources.kubernetes.sandboxes.search import find

__all__ = ["Sandbox", "Sandboxes", "Unfit", "Why", "find", "foreign_runtime", "is_there", "look"]
