"""Models on an NVIDIA GPU: ours, TVM untuned, PyTorch in three ways and TensorRT, a model a call."""
