"""All that needs a GPU, in one run: ``python -m tools.gpu_check --help``."""
