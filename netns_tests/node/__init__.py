"""A node of a cluster on a machine of a test's own, with the agent as a process.

What runs there is real, but for the API server, the kubelet and the container runtime, whose parts are played here.
"""
