"""A bundle: an engine for one device with its proof. What an export makes and a runtime loads."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpft_deploy.detector_folder import GOLDEN, Golden
from mpft_deploy.errors import InputError
from mpft_deploy.files import canonical_json, display
from mpft_deploy.kinds import refuse_other_kind
from mpft_deploy.outputs import sealed_kind, staged_folder
from mpft_deploy.sealed import MANIFESTS, read_sealed, write_seal
from mpft_deploy.signing import Signature, load_verifier
from mpft_deploy.spec import DetectorSpec, Record, convert_record

KIND: Literal["bundle"] = "bundle"
VERSION: Literal[1] = 1
MANIFEST, OUTPUT = MANIFESTS[KIND], sealed_kind(KIND)
CERTIFICATE, LATENCY = "certificate.json", "latency.json"


INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
                "asimddp", "i8mm", "bf16")  # fmt: skip
"""Of integers and narrow floats, by Linux's names."""


class Device(Record, frozen=True):
    """Where an engine was built and proven: enough to tell another device, and nobody's name.

    `instructions` are those of INSTRUCTIONS that the processor has: one name is sold with and
    without them, and engines compute other bits, at other speeds, by them.
    """

    machine: str
    system: str
    processor: str
    instructions: tuple[str, ...] = ()

    def __str__(self) -> str:
        able = f" with {', '.join(self.instructions)}" if self.instructions else ""
        return f"{self.processor}{able}"

    @classmethod
    def here(cls) -> Device:
        """This device."""
        cpu = _cpuinfo()
        return cls(
            machine=platform.machine(),
            system=platform.system(),
            processor=cpu.get("model name") or cpu.get("hardware") or platform.processor()
            or "unknown",
            instructions=tuple(
                name
                for name in INSTRUCTIONS
                if name in (cpu.get("flags") or cpu.get("features") or "").split()
            ),
        )  # fmt: skip


class Flip(Record, frozen=True):
    """An image whose decision the engine changed."""

    image: str
    reference_logit: float
    engine_logit: float
    decisive: bool


class Comparison(Record, frozen=True):
    """Engine against reference on one set of images.

    Attributes:
        reference: what made the reference logits.
        images: how many; `images_sha256` is over their decoded views, in order.
        flips, flip_share, flip_interval: changed decisions: number, share, and the 95 % Wilson
            interval of the share.
        decisive_flips: from one side of the unsure band to the other.
        logit_difference: absolute, by quantile: "p50", "p90", "p99", "max"; and "mean".
        auc_change, balanced_accuracy_change: engine minus reference, where labels are known.
        flipped: every flipped image, the largest logit difference first.
    """

    reference: str
    images: int
    images_sha256: str
    flips: int
    flip_share: float
    flip_interval: tuple[float, float]
    decisive_flips: int
    logit_difference: dict[str, float]
    auc_change: float | None
    balanced_accuracy_change: float | None
    flipped: list[Flip]


class Certificate(Record, frozen=True):
    """Proof that an engine gives the trained model's verdicts, and the budget it was judged by.

    An engine that was built for another device has no proof until `mpft verify` runs there: then
    `golden` is None, `not_run` says why, and it has not `passed`.
    """

    threshold: float
    unsure: tuple[float, float]
    golden: Comparison | None
    images: Comparison | None
    budget: str
    passed: bool
    reasons: list[str]
    not_run: str | None = None


class Latency(Record, frozen=True):
    """Milliseconds of one view on the device of the export, after warm-up."""

    samples: int
    threads: int
    patchify_ms: dict[str, float]
    engine_ms: dict[str, float]
    total_ms: dict[str, float]


class BundleInfo(Record, frozen=True):
    """The manifest of a bundle, without hashes and seal.

    `compute_capability` lists the CUDA devices that the engine is for; empty for any device.
    """

    kind: Literal["bundle"]
    version: Literal[1]
    spec: DetectorSpec
    backend: str
    precision: str
    engine: str
    device: Device
    versions: dict[str, str]
    sources: dict[str, str]
    compute_capability: tuple[str, ...] = ()

    @property
    def mixes_views(self) -> bool:
        """Whether a view's logit depends on the views that are judged with it: int8 takes the scale
        of its activations from the whole batch."""
        return self.precision == "int8"


@dataclass(frozen=True)
class Bundle:
    """A bundle as read and verified.

    engine: the checked bytes.
    latency: None where the engine has not run yet.
    seal: SHA-256 over the manifest: names this bundle and no other.
    signature: as stored, or None; checked only where a key was required.
    """

    path: Path
    info: BundleInfo
    engine: bytes
    golden: Golden
    certificate: Certificate
    latency: Latency | None
    seal: str
    signature: object

    @property
    def spec(self) -> DetectorSpec:
        """The detector's spec."""
        return self.info.spec

    def without_engine(self) -> Bundle:
        """This bundle without the engine's bytes, to free them once it is loaded."""
        return replace(self, engine=b"")


def read_bundle(path: Path, require_signature: Path | None = None) -> Bundle:
    """Read a bundle and verify every byte of it before anything is deserialised by a backend.

    Args:
        require_signature: a public key (PEM); a bundle that is not signed by it is an InputError.
            Without it a signature is protected by the seal like everything else, but not checked.
    """
    refuse_other_kind(path, KIND)
    verify = load_verifier(require_signature) if require_signature else None
    sealed = read_sealed(path, version=VERSION, kind=KIND, verify=verify)
    content = sealed.content
    info: BundleInfo = convert_record(sealed.payload, BundleInfo, display(path / MANIFEST))
    for name in (info.engine, GOLDEN, CERTIFICATE):
        if name not in content:
            raise InputError(f"{display(path)} is incomplete: its manifest does not list {name}")

    def record(name: str, kind: type[Any]) -> Any:
        where = display(path / name)
        try:
            payload = msgspec.json.decode(content[name])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InputError(f"{where} is damaged: it is not JSON. Export it again.") from None
        return convert_record(payload, kind, where)

    certificate: Certificate = record(CERTIFICATE, Certificate)
    if certificate.not_run is None and (certificate.golden is None or LATENCY not in content):
        raise InputError(f"{display(path)} is incomplete: it lacks its proof or its latency")
    return Bundle(
        path,
        info,
        content[info.engine],
        Golden.from_bytes(content[GOLDEN], info.spec, display(path / GOLDEN)),
        certificate,
        record(LATENCY, Latency) if LATENCY in content else None,
        sealed.seal,
        sealed.signature,
    )


def write_bundle(
    path: Path,
    info: BundleInfo,
    engine: bytes,
    golden: Golden,
    certificate: Certificate,
    latency: Latency | None,
    *,
    sign: Callable[[bytes], Signature] | None = None,
    replace: bool = False,
) -> None:
    """Write a bundle, whole or not at all; `sign` as `load_signer` gives it."""
    with staged_folder(path, OUTPUT, replace=replace) as staging:
        (staging / info.engine).write_bytes(engine)
        (staging / GOLDEN).write_bytes(golden.to_bytes())
        (staging / CERTIFICATE).write_bytes(canonical_json(msgspec.to_builtins(certificate)))
        if latency is not None:
            (staging / LATENCY).write_bytes(canonical_json(msgspec.to_builtins(latency)))
        write_seal(staging, msgspec.to_builtins(info), sign=sign)


def _cpuinfo() -> dict[str, str]:
    """What the system tells of its processors, by lower-case names; empty if nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
