"""TensorRT engines: which TensorRT is here, building a plan, and the sidecar that describes it."""
