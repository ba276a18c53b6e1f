"""What training through the CRF is worth, on MSRC-21 (``python -m benchmarks training``)."""
