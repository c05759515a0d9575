"""The composition root: builds a node from settings and runs it."""
