"""What speed and quality benchmarks share."""
