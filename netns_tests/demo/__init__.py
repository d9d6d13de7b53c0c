"""`./dev demo`: Weir at work in network namespaces of its own, each claim checked before it is printed."""
