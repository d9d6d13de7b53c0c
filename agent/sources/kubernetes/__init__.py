"""Pods as a source of targets: what of them is read, whether they are captured, and what their annotations ask for."""
