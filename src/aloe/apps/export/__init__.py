"""Students outside PyTorch: the forward pass and the explanation as ONNX or `torch.export` files, checked after writing."""
