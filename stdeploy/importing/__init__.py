"""Networks of other projects, made into artifacts that are compared with what they come from."""
