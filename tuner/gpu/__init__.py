"""NVIDIA GPUs: what they are, how kernels for them are found and compiled without one, and measured where one is."""
