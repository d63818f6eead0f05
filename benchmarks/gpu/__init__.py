"""Everything that is claimed of a GPU, measured by one command: `python -m benchmarks.gpu`."""
