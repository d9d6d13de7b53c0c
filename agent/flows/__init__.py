"""Connections of a target, counted: how many, in which states, by which way, with whom, and which are about to break.

`look` reads a namespace's connections once, `peers` says with whom they are, `scraping` reads many namespaces within a
budget. Opt-in events: `listener` keeps the process that hears of connections, `listening` is that process, and imports
little; so does this page.
"""
