"""Data: where it comes from (`sources`) and what a network reads (one module per modality)."""
