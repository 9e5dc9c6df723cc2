"""All backends, precisions and batch sizes side by side, measured fairly."""
