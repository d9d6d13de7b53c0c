"""What a walk says where it can't know."""


class Undecided(Exception):
    """A foreign match, or one by what no rule says: whether it holds can't be known. Its text is the match."""


def in_ipset(name: str) -> str:
    """Return why nobody knows whether a packet is in a set of ipset's."""
    return f"what the ipset {name!r} holds: rules only name it, `ipset list {name}` tells"
