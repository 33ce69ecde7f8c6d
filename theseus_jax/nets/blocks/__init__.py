"""What stages are built of, linear read-outs, and what stands between two of other shapes."""
