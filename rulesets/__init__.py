"""Rulesets as values: built from an intent, rendered, parsed, compared and walked. Pure: no I/O, no clock, no logging."""
