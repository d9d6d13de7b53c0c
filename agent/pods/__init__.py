"""The pods of this node: what is wanted of each, and the steps that lead there and back.

node has all of them, and answers tells the container runtime; each has a course, whose one task carries out the newest
wish by steps. wishes is pure: it says what is wanted. beginning takes up what was there before; standing is what a user
is told. neighbours has what this room needs of others. probes keeps the node's table.
"""
