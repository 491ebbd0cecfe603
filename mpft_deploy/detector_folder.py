"""A detector on disk: spec, weights, golden crops and model card, sealed; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from mpft_deploy.errors import InputError
from mpft_deploy.files import display
from mpft_deploy.kinds import refuse_other_kind
from mpft_deploy.outputs import staged_folder
from mpft_deploy.sealed import MANIFESTS, read_manifest, read_sealed, write_seal
from mpft_deploy.spec import DetectorSpec, convert_record
from mpft_deploy.standing import sealed_kind
from mpft_deploy.weights import (
    F32,
    Rows,
    Stored,
    as_floats,
    decode,
    quantise,
    stored_weights,
    write_tensors,
)

KIND, VERSION = "detector", 1
MANIFEST, OUTPUT = MANIFESTS[KIND], sealed_kind(KIND)
WEIGHTS, GOLDEN, CARD = "weights.safetensors", "golden.safetensors", "MODEL_CARD.md"
CERTIFICATE = "certificate.safetensors"


@dataclass(frozen=True)
class Golden:
    """Crops with the logits of the trained model, by which any machine proves its engine.

    crops: u8 [G, S, S, 3].
    logits: f32 [G]; PyTorch, float32, at the inference keep rule of the spec.
    """

    crops: npt.NDArray[np.uint8]
    logits: F32

    def to_bytes(self) -> bytes:
        """As safetensors."""
        data: bytes = safetensors.numpy.save({"crops": self.crops, "logits": self.logits})
        return data

    @classmethod
    def from_bytes(cls, data: bytes, spec: DetectorSpec, where: str) -> Golden:
        """Parse and check against the spec's crop size."""
        tensors = decode(data, where)
        crops, logits = tensors.get("crops"), tensors.get("logits")
        size = spec.crop.size
        if (
            crops is None
            or logits is None
            or crops.dtype != np.uint8
            or logits.dtype != np.float32
            or crops.shape != (len(logits), size, size, 3)
            or not len(logits)
        ):
            raise InputError(
                f"{where} must hold crops u8 [G, {size}, {size}, 3] and logits f32 [G], one or more"
            )
        return cls(crops.astype(np.uint8, copy=False), logits.astype(np.float32, copy=False))


@dataclass(frozen=True)
class DetectorFolder:
    """What a detector folder holds.

    stored: weights by open_clip's names of a visual tower, blocks 0 to depth − 1 alone, and
        `head.weight` [1, taps · E], `head.bias` [1]; matrices that are rounded as integers.
    certificate: bytes of what its engines of the backend native change, where that was measured;
        see `mpft_deploy.engine.published`.
    """

    path: Path
    spec: DetectorSpec
    stored: dict[str, Rows | F32]
    golden: Golden
    card: str
    certificate: bytes | None
    seal: str

    @cached_property
    def weights(self) -> dict[str, F32]:
        """All weights in float32."""
        return as_floats(self.stored)


def read_detector(path: Path) -> DetectorFolder:
    """Read and verify a detector folder; an InputError if anything is missing, extra or altered."""
    refuse_other_kind(path, KIND)
    sealed = read_sealed(path, version=VERSION, kind=KIND)
    content = sealed.content
    spec: DetectorSpec = convert_record(
        sealed.payload.get("spec"), DetectorSpec, f"the spec in {display(path / MANIFEST)}"
    )
    for name in (WEIGHTS, GOLDEN, CARD):
        if name not in content:
            raise InputError(f"{display(path)} is incomplete: its manifest does not list {name}")
    return DetectorFolder(
        path,
        spec,
        stored_weights(content[WEIGHTS], spec, display(path / WEIGHTS)),
        Golden.from_bytes(content[GOLDEN], spec, display(path / GOLDEN)),
        content[CARD].decode("utf-8", "replace"),
        content.get(CERTIFICATE),
        sealed.seal,
    )


def read_spec(path: Path) -> DetectorSpec:
    """What a detector's manifest says of it, with nothing verified."""
    refuse_other_kind(path, KIND)
    payload = read_manifest(path, version=VERSION, kind=KIND)
    where = f"the spec in {display(path / MANIFEST)}"
    spec: DetectorSpec = convert_record(payload.get("spec"), DetectorSpec, where)
    return spec


def write_detector(
    path: Path,
    spec: DetectorSpec,
    weights: Mapping[str, F32],
    golden: Golden,
    card: str,
    *,
    stored: Stored = "float32",
    replace: bool = False,
) -> None:
    """Write a detector folder, whole or not at all.

    Args:
        stored: how matrices are stored. The golden logits must come from the weights as they read
            back.
    """
    tensors = quantise(weights, stored)
    with staged_folder(path, OUTPUT, replace=replace) as staging:
        write_tensors(staging / WEIGHTS, tensors)
        (staging / GOLDEN).write_bytes(golden.to_bytes())
        (staging / CARD).write_text(card, encoding="utf-8")
        payload = {"kind": KIND, "version": VERSION, "spec": msgspec.to_builtins(spec)}
        write_seal(staging, payload)


def reseal_detector(path: Path) -> None:
    """Accept the files as they are now, after an edit made on purpose, such as of the card."""
    refuse_other_kind(path, KIND)
    payload = read_manifest(path, version=VERSION, kind=KIND)
    read_spec(path)
    write_seal(path, {key: payload[key] for key in ("kind", "version", "spec")})


def rewrite_detector(
    path: Path,
    spec: DetectorSpec,
    *,
    golden: Golden | None = None,
    card: str | None = None,
    certificate: bytes | None = None,
) -> None:
    """Put another spec into a detector folder, checked before and sealed anew, whole or not.

    The weights stay byte for byte, and so does what is not given.

    Args:
        golden: crops with new logits, where the spec's keep rule is another.
        card: another model card.
        certificate: of `mpft_deploy.engine.published`.
    """
    sealed = read_sealed(path, version=VERSION, kind=KIND)
    content = dict(sealed.content)
    if golden is not None:
        content[GOLDEN] = golden.to_bytes()
    if card is not None:
        content[CARD] = card.encode()
    if certificate is not None:
        content[CERTIFICATE] = certificate
    with staged_folder(path, OUTPUT, replace=True) as staging:
        for name, data in content.items():
            (staging / name).write_bytes(data)
        payload = {"kind": KIND, "version": VERSION, "spec": msgspec.to_builtins(spec)}
        write_seal(staging, payload)
