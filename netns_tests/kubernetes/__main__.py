"""Build what tests on Kubernetes need: `./dev build kubernetes`; with `--cluster`, also what nodes are made of."""

import sys

import pytest

from netns_tests.images import build
from netns_tests.kubernetes import node_parts
from netns_tests.kubernetes.cluster import PROGRAMS
from netns_tests.kubernetes.programs import program

if __name__ == "__main__":
    try:
        for name in PROGRAMS:
            print(program(name))
    except pytest.fail.Exception as error:
        sys.exit(f"dev: {error}")
    if "--cluster" in sys.argv:
        for archive in (node_parts.pause(), node_parts.busybox(), node_parts.proxy(), build.image()):
            print(archive)
