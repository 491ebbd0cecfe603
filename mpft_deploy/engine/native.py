"""The project's own backend: the network as integers, the same logits on every processor.

An engine is a network's arrays as they are read, in safetensors, so that one that is mapped into
memory is ready: see `mpft_deploy.kernels.encoder.packing`. What computes it is the version of the
encoder that is chosen (`mpft kernels`): a GPU's where there is one, else the processor's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Precision
from mpft_deploy.cores import available_cores
from mpft_deploy.engine import cuda, on_device
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.kernels.encoder import Encoder, choose
from mpft_deploy.kernels.encoder.cuda import CudaEncoder
from mpft_deploy.kernels.encoder.network import Network, make_network
from mpft_deploy.kernels.encoder.oracle import DEFINITION
from mpft_deploy.kernels.encoder.packing import Packed, Sizes, pack, packed_shapes, unpack
from mpft_deploy.spec import MALFORMED, DetectorSpec, Record, convert_record
from mpft_deploy.weights import F32, MAX_HEADER, Rows

MEASURED = ("wide", "narrow")
"""What logits differ by: all activations of 16 bits, or only outliers."""

PRECISIONS = ("wide", "twice", "narrow")
"""The slowest first: what is taken of a detector of which nothing was measured. "twice" is narrow,
and wide once more where that could change a verdict."""

HEADER = "mpft.network"
WHERE = "the engine"
ALIGNMENT = 64
"""Bytes; a line of a processor's cache."""
TYPES = {"I8": np.int8, "F32": np.float32}


class Header(Record, frozen=True):
    """What the arrays do not say: the spec, without where it comes from, and the definition."""

    spec: DetectorSpec
    definition: str


def why_not(built_for: Sequence[str] = ()) -> str | None:
    """What `choose` raises: native code of other sources, or a version that does not run here. Else
    None: there is a version for every processor."""
    try:
        choose()
    except EnvironmentLacksError as error:
        return str(error)
    return None


def why_not_precision(precision: Precision) -> str | None:
    """None: every precision runs on every processor."""
    return None


def versions() -> dict[str, str]:
    """Of the definition, on which alone logits depend; and of a GPU, if that computes: it shows
    once that it gives the same."""
    return {"network": DEFINITION, **(cuda.versions() if _on_device() else {})}


def write_engine(
    spec: DetectorSpec, stored: Mapping[str, Rows | F32], precision: Precision
) -> bytes:
    """The bytes of an engine.

    Args:
        stored: weights as a detector folder gives them.
    """
    packed = pack(make_network(spec, stored, wide=precision.wide_layers))
    bare = msgspec.structs.replace(spec, training={})
    header = msgspec.json.encode(Header(spec=bare, definition=DEFINITION)).decode()
    table: dict[str, Any] = {"__metadata__": {HEADER: header}}
    end = 0
    for name, array in packed.arrays.items():
        begin, end = end, end + array.nbytes
        kind = next(key for key, dtype in TYPES.items() if dtype == array.dtype)
        table[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, end)}
    text = msgspec.json.encode(table)
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *map(bytes, packed.arrays.values())])


def load(
    engine: bytes | memoryview, *, threads: int, spin: bool = True
) -> NativeEngine | NativeDeviceEngine:
    """Read an engine where it lies, or copy it to the GPU; `threads` 0 takes as many as this
    process may use.

    Raises:
        InputError: it is none, or of another definition.
        EnvironmentLacksError: the version that `MPFT_KERNEL` names does not run here, or the GPU
            has too little memory.
    """
    spec, packed = _read(engine)
    try:
        if _on_device():
            return NativeDeviceEngine(packed, spec.tokens, spin=spin)
        return NativeEngine(packed, threads or available_cores())
    except ValueError as error:
        raise InputError(f"{WHERE} is damaged: {error}") from None


def _on_device() -> bool:
    return choose().device == "cuda"


def read_network(engine: bytes | memoryview) -> Network:
    """The network of an engine, to be read by people or by the oracle; errors as of `load`."""
    return unpack(read_packed(engine))


def read_packed(engine: bytes | memoryview) -> Packed:
    """The arrays of an engine, where they lie; errors as of `load`."""
    return _read(engine)[1]


def _read(engine: bytes | memoryview) -> tuple[DetectorSpec, Packed]:
    length = int.from_bytes(engine[:8], "little")
    begin = 8 + length
    try:
        table = msgspec.json.decode(engine[8:begin] if length <= MAX_HEADER else b"")
        payload = msgspec.json.decode(table.pop("__metadata__")[HEADER])
        found = payload.get("definition", "1")  # which did not name itself
    except (*MALFORMED, AttributeError, KeyError, TypeError):
        raise InputError(f"{WHERE} is none of the backend native: it has no {HEADER}") from None
    if found != DEFINITION:
        raise InputError(
            f"{WHERE} is of version {found!r} of the network's definition, and this mpft-deploy "
            f"computes version {DEFINITION!r}, of other bits. Export the detector again, or "
            "install the mpft-deploy that it was made with."
        )
    header: Header = convert_record(payload, Header, WHERE)
    sizes = sizes_of(header.spec)
    arrays: dict[str, npt.NDArray[Any]] = {}
    due, position = packed_shapes(sizes), 0
    for (dtype, shape), (name, entry) in zip(due, table.items(), strict=False):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        kind = next(key for key, one in TYPES.items() if one is dtype)
        place = {"dtype": kind, "shape": [*shape], "data_offsets": [position, position + size]}
        if entry != place or begin + position + size > len(engine):
            break
        arrays[name] = np.frombuffer(engine, dtype, math.prod(shape), begin + position).reshape(
            shape
        )
        position += size
    if not len(arrays) == len(due) == len(table) or begin % ALIGNMENT:
        raise InputError(f"{WHERE} does not hold the arrays of {header.spec.architecture.name}")
    return header.spec, Packed(sizes, arrays)


def sizes_of(spec: DetectorSpec) -> Sizes:
    """What the shapes of an engine's arrays follow from."""
    arch = spec.architecture
    return Sizes(
        width=arch.width,
        hidden=arch.hidden,
        heads=arch.heads,
        cells=spec.cells,
        area=spec.patch**2,
        depth=spec.depth,
        taps=spec.taps,
        embedding=arch.output_dim if spec.feature == "unit" else 0,
        activation=arch.activation,
    )


def _wide(packed: Packed) -> Packed:
    """With all activations wide; shares the weights. `Linear.least` alone makes a layer narrow."""
    least = (name for name in packed.arrays if name.endswith(".least"))
    zero = {name: np.zeros_like(packed.arrays[name]) for name in least}
    return Packed(packed.sizes, {**packed.arrays, **zero})


class NativeEngine:
    """A loaded engine on the processor; see `mpft_deploy.engine.Engine`."""

    def __init__(self, packed: Packed, threads: int) -> None:
        self._packed, self._threads = packed, threads
        self._encoder = Encoder(packed, threads=threads)

    @cached_property
    def wide(self) -> NativeEngine:
        """The same network with all activations wide; shares the weights."""
        return NativeEngine(_wide(self._packed), self._threads)

    def run(
        self, patches: npt.NDArray[np.uint8], positions: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """patches u8 [B, K, 3·p·p] and positions i32 [B, K] → logits f32 [B]."""
        return self._encoder.logits(patches, positions)


class NativeDeviceEngine(on_device.ViewEngine):
    """A loaded engine on a GPU."""

    def __init__(self, packed: Packed, tokens: int, *, spin: bool) -> None:
        super().__init__(partial(OnDevice, packed, tokens), spin=spin)
        self._again = partial(NativeDeviceEngine, _wide(packed), tokens, spin=spin)

    @cached_property
    def wide(self) -> NativeDeviceEngine:
        """The same network with all activations wide, in memory of its own."""
        return self._again()


class OnDevice:
    """An engine's network on a GPU; see `mpft_deploy.engine.on_device.Network`."""

    smallest, largest, captured = 1, 64, True

    def __init__(self, packed: Packed, tokens: int) -> None:
        self.cells = (tokens, 3 * packed.sizes.area)
        self._encoder = CudaEncoder(packed)

    def place(self, addresses: on_device.Addresses, most: int) -> None:
        """See `Network`."""
        self._addresses = addresses
        self._encoder.reserve(most, self.cells[0])

    def enqueue(self, batch: int, stream: int) -> None:
        """See `Network`."""
        patches, positions, logits = (self._addresses[name] for name in on_device.TYPES)
        self._encoder.launch(patches, positions, logits, batch, self.cells[0], stream)
