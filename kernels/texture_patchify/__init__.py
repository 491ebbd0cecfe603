"""Score the cells of an image by texture, keep K, pack their pixels. See README.md."""

from mpft_deploy.kernels.texture_patchify.oracle import Patches, texture_patchify

__all__ = ["Patches", "texture_patchify"]
