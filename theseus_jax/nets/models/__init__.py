"""Architectures, a file a family."""
