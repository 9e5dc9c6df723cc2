"""Running artifacts: one contract, one backend a file."""
