"""The agent: everything that touches the world."""
