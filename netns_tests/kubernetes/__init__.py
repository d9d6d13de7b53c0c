"""A real Kubernetes API for the tests: its programs, made by Go from public modules, and one server of them."""
