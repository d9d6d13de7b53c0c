"""nft's two languages: text is what Weir writes, JSON is what it reads back.

The kernel and each nft release print rules differently, so texts are never compared: `parse` turns a listing into the
same values that were rendered, and takes what Weir never writes for foreign. `parse_tables` reads everybody's tables.
"""

from rulesets.nft.listing import ListingError, parse
from rulesets.nft.tables import Tables, parse_tables
from rulesets.nft.text import render, render_match, render_rule
from rulesets.nft.to_json import render_json

__all__ = [
    "ListingError",
    "Tables",
    "parse",
    "parse_tables",
    "render",
    "render_json",
    "render_match",
    "render_rule",
]
