"""The daemon: one asyncio loop that decides, a few worker threads that enter namespaces."""
