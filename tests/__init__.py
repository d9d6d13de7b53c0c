"""Tests without root or a network: seconds."""
