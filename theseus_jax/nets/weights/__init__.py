"""Weights of others: files of named tensors, and how tensors get to their places."""
