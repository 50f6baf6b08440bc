"""The torch that the extension is linked with, and the check that the one at hand is the same.

An extension built against one torch can load with another and then read its structures wrongly, or fail with
a mangled symbol name. So the versions are compared before the extension is loaded.
"""

from importlib.metadata import version

TORCH = "2.11.0"

_REMEDY = f'Install the matching one with: pip install "torch=={TORCH}"'


def check_torch() -> None:
    """Import torch, whose libraries the extension needs, and check its version.

    Raises
    ------
    ImportError
        If torch is not installed, cannot be imported, or is not the version the extension is linked with.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"rust_diffusion needs torch {TORCH}, and no torch is installed. {_REMEDY}", name="torch"
        ) from None

    found = str(torch.__version__)
    if found.split("+")[0] != TORCH:
        raise ImportError(
            f"rust_diffusion is linked with torch {TORCH}, but torch {found} is installed. "
            f"{_REMEDY} (then restart Python)",
            name="torch",
        )


def here() -> str:
    """Name the versions of this package and of torch, for files to keep."""
    import torch

    return f"rust-diffusion {version('rust-diffusion')}, torch {torch.__version__}"
