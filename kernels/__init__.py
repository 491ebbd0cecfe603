"""texture_patchify, one rule on every processor."""

from mpft_deploy.kernels.texture_patchify import Patches, implementations, texture_patchify

__all__ = ["Patches", "implementations", "texture_patchify"]
