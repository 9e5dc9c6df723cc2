"""Backends that run an artifact, one a file, behind the contract in base.py."""
