"""Rules as the kernel's own messages: `encode` writes one nf_tables batch, byte by byte, from the uapi headers.

Beside `rulesets.nft`, which writes the same change as text: what nft lists afterwards is the same.
"""

from rulesets.netlink.batch import QUESTION, Batch, Message, Verb
from rulesets.netlink.encoding import ORPHAN, OWNED, encode, encode_elements

__all__ = ["ORPHAN", "OWNED", "QUESTION", "Batch", "Message", "Verb", "encode", "encode_elements"]
