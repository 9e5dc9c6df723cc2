"""Events out of live answers: rules, and sinks that get them through a queue on the disk."""
