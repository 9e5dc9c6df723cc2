"""Architectures, one a file; `registry.build` makes one from a ModelSpec."""
