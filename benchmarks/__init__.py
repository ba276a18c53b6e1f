"""Measurements of densecrf_gpu beside its peers: ``python -m benchmarks --help``."""
