"""A build for a GPU, rehearsed without one: the same steps, with TensorRT for RTX as parser and builder."""
