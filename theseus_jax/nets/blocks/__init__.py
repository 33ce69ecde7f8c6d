"""What stages are built of: norms, convolutions, pixels, adapters, and what stands between two of different shapes."""
