"""Weights of others: files of named tensors, their readers, and how tensors get to their places."""
