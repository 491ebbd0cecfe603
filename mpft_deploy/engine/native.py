"""The project's own backend: the network as integers, the same logits on every processor.

An engine is the detector's weights as they are stored, and what is wide; see
`mpft_deploy.kernels.encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from mpft_deploy.bundle import Precision
from mpft_deploy.cores import available_cores
from mpft_deploy.errors import InputError
from mpft_deploy.kernels.encoder import Encoder
from mpft_deploy.kernels.encoder.network import Network, make_network
from mpft_deploy.spec import DetectorSpec, Record, convert_record
from mpft_deploy.weights import F32, SCALE, Rows, stored_weights

PRECISIONS = ("wide", "mixed", "narrow")
HEADER = "mpft.network"
WHERE = "the engine"

DEFINITION = "1"
"""Version of `mpft_deploy.kernels.encoder.oracle`: another where it gives other bits."""


class Header(Record, frozen=True):
    """What the weights do not say: the spec, without where it comes from, and the wide layers."""

    spec: DetectorSpec
    wide: tuple[str, ...]


def why_not(built_for: Sequence[str] = ()) -> str | None:
    """None: there is a version for every processor."""
    return None


def why_not_precision(precision: Precision) -> str | None:
    """None: integers are as exact, and no slower than floats, everywhere."""
    return None


def versions() -> dict[str, str]:
    """Of the definition, on which alone logits depend."""
    return {"network": DEFINITION}


def write_engine(
    spec: DetectorSpec, stored: Mapping[str, Rows | F32], precision: Precision
) -> bytes:
    """The bytes of an engine.

    Args:
        stored: weights as a detector folder gives them.
    """
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for name, value in stored.items():
        if isinstance(value, Rows):
            tensors[name], tensors[name + SCALE] = value.integers, value.scale
        else:
            tensors[name] = value
    bare = msgspec.structs.replace(spec, training={})
    header = msgspec.json.encode(Header(spec=bare, wide=precision.wide_layers)).decode()
    data: bytes = safetensors.numpy.save(tensors, {HEADER: header})
    return data


def load(engine: bytes, *, threads: int, spin: bool = True) -> NativeEngine:
    """Read an engine's bytes; `threads` 0 takes as many as this process may use.

    Raises:
        InputError: they are none.
    """
    return NativeEngine(Encoder(read_network(engine), threads=threads or available_cores()))


def read_network(engine: bytes) -> Network:
    """The network that an engine's bytes hold; an InputError if they hold none."""
    length = int.from_bytes(engine[:8], "little")
    try:
        metadata = msgspec.json.decode(engine[8 : 8 + length])["__metadata__"]
        payload = msgspec.json.decode(metadata[HEADER])
    except (msgspec.DecodeError, KeyError, TypeError):
        raise InputError(f"{WHERE} is none of the backend native: it has no {HEADER}") from None
    header: Header = convert_record(payload, Header, WHERE)
    stored = stored_weights(engine, header.spec, WHERE)
    return make_network(header.spec, stored, wide=header.wide)


class NativeEngine:
    """A loaded engine; see `mpft_deploy.engine.Engine`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        return self._encoder.logits(patches, positions)
