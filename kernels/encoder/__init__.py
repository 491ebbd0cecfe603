"""The encoder as integers: one network, the same bits on every processor. See README.md."""

from __future__ import annotations

from mpft_deploy.kernels.encoder.network import Network, make_network
from mpft_deploy.kernels.encoder.registry import VERSIONS, Encoder, Version, choose, statuses

__all__ = ["VERSIONS", "Encoder", "Network", "Version", "choose", "make_network", "statuses"]
