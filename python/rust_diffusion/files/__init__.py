"""What is kept on disk: checkpoints of runs, and trained models."""

from rust_diffusion.files.pretrained import from_pretrained, load, save_pretrained

__all__ = [
    "from_pretrained",
    "load",
    "save_pretrained",
]
