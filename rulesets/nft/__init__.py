"""nft's two languages: text is what Weir writes, JSON is what it reads back.

The kernel and each nft release print rules differently, so texts are never compared: `parse` turns a listing into the
same values that were rendered.
"""

from rulesets.nft.listing import ListingError, parse
from rulesets.nft.text import render, render_match, render_rule
from rulesets.nft.to_json import render_json

__all__ = [
    "ListingError",
    "parse",
    "render",
    "render_json",
    "render_match",
    "render_rule",
]
