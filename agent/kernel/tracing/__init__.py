"""What the kernel tells of the rules that a packet meets (``meta nftrace set 1``), and the table that makes it tell."""
