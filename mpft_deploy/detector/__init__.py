"""PyTorch side: model, masking, data, training, evaluation. Needs the extra `train`."""
