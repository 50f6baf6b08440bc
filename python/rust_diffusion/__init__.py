"""DDPM and DDIM for computational imaging: a Rust engine on PyTorch's own tensors."""

from rust_diffusion._versions import check_torch

# Before anything else: the extension finds libtorch only once torch is imported, and only in the version it is linked with.
check_torch()

from rust_diffusion import _native  # noqa: F401
