"""What a walk says where it can't know."""


class Undecided(Exception):
    """A foreign match, or one by what no rule says: whether it holds can't be known. Its text is the match."""
