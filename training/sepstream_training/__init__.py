"""sepstream_training: networks, data, losses and the training loop (PyTorch and Lightning)."""
