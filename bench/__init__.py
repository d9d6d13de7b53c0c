"""Weir against its peers: ratios of medians in one run, samples interleaved. Absolute times belong to the machine."""
