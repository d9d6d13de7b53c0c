"""Explaining: whether a target is captured, why not, and what mends it; what a packet meets; a real connection."""
