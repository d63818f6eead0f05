"""One command per claim; see README.md. Run from the repository root: `python -m benchmarks.usual`."""
