"""Rulesets as values: built from an intent, rendered, parsed, compared and walked. No I/O, no clock, no logging."""
