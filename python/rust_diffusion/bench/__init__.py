"""The benchmark: `python -m rust_diffusion.bench`, or `make bench` in the repository."""
