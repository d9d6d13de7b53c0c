"""Traced packets as connections: which are asked for, what they met, and how that is told."""
