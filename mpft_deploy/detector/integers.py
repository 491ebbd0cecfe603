"""What a head reads, by the network in integers: one that is fitted on it loses nothing to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import safetensors.numpy

from mpft_deploy.cores import available_cores
from mpft_deploy.detector.batches import U8
from mpft_deploy.kernels.encoder import Encoder, make_network
from mpft_deploy.kernels.encoder.oracle import I32
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32, Stored, quantise, stored_weights


class IntegerTower:
    """A tower as engines of the backend native will run it, the same on every processor.

    Args:
        spec: of the detector to be; its head need not be there yet.
        weights: float32, as `Detector.weights` gives them; of the head nothing is used.
        stored: how the detector will store its matrices.
        wide: layers whose activations are wide, see `make_network`; none, as the precision narrow.
        threads: 0 takes as many as this process may use.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        weights: Mapping[str, F32],
        stored: Stored,
        *,
        wide: Collection[str] = (),
        threads: int = 0,
    ) -> None:
        data = safetensors.numpy.save(quantise(weights, stored))
        tower = stored_weights(data, spec, "the tower")
        network = make_network(spec, tower, wide=wide)
        proj = tower["proj"]
        self._proj = proj if isinstance(proj, np.ndarray) else proj.real()
        self._unit = spec.feature == "unit"
        self._encoder = Encoder(network, threads or available_cores())

    def features(self, patches: U8, positions: I32) -> F32:
        """CLIP's embedding of the class token after each of the last blocks, f32 [B, taps · E].

        As `Detector.features` gives it. Tokens are the same bits everywhere; their
        product with CLIP's projection is NumPy's.

        Args:
            patches: u8 [B, K, 3·p·p], pixels in the order row, column, channel.
            positions: i32 [B, K], index of each cell in raster order.
        """
        class_tokens = self._encoder.features(patches, positions)[:, :, 0]
        embedded = class_tokens @ self._proj
        if self._unit:
            embedded = embedded / np.linalg.norm(embedded, axis=-1, keepdims=True)
        return np.asarray(embedded).reshape(len(patches), -1)
