"""Actions over HTTP: batched, bounded, observed, with a page to try it."""
