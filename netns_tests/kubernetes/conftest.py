"""The cluster's tests are `./dev test cluster`'s: they take minutes, and a network namespace around pytest itself."""

import os

collect_ignore = [] if "WEIR_CLUSTER" in os.environ else ["cluster_tests"]
