"""The test world: real namespaces, sockets and a small real proxy. Needs root; leaves the machine itself alone."""
