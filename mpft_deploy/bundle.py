"""A bundle: an engine for one device with its proof. What an export makes and a runtime loads."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mpft_deploy.detector_folder import GOLDEN, Golden
from mpft_deploy.errors import InputError
from mpft_deploy.files import canonical_json, display
from mpft_deploy.kinds import refuse_other_kind
from mpft_deploy.outputs import staged_folder
from mpft_deploy.sealed import MANIFESTS, read_sealed, write_seal
from mpft_deploy.signing import Signature, load_verifier
from mpft_deploy.spec import MALFORMED, DetectorSpec, Record, convert_record
from mpft_deploy.standing import sealed_kind

KIND: Literal["bundle"] = "bundle"
VERSION: Literal[2] = 2
MANIFEST, OUTPUT = MANIFESTS[KIND], sealed_kind(KIND)
CERTIFICATE, LATENCY = "certificate.json", "latency.json"
MAPPED = "engine.safetensors"
"""An engine of the backend native: read where it lies, by all processes that run it."""


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


SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "float8": "fp8"}


WIDTHS = {(): "narrow", ("qkv", "out", "fc", "proj"): "wide"}
"""What is wide of integer activations that are scaled by token → what that is called."""


class Precision(Record, frozen=True):
    """What an engine computes in; its name for people is derived from this, never read.

    Attributes:
        weights: type of the linear layers' weights; of the other matmuls too, where it is a float
            type.
        activations: how the inputs of those layers come into 8 bits: not at all, by ranges fixed
            at export, or by ranges taken as the engine runs, for each tensor or each token.
        rest: type of the other matmuls: attention, and the layers left in float.
        float_layers: patterns (`fnmatch`) of the layers that are left out.
        wide_layers: kinds of layers whose activations have 16 bits, where those of the others have
            8 unless they are outliers; of what is scaled by token.
        own_order: whether what is scaled by token is run as a graph, with float operations between
            the matrices in the runtime's own order; of the backend native they are in the defined.
        again: a picture whose verdict could be another if its logit moved by so much is judged
            once more with all layers wide, and that counts; of narrow engines, else 0.
    """

    weights: Literal["float32", "float16", "bfloat16", "int8", "float8"]
    activations: Literal["none", "static", "dynamic per tensor", "dynamic per token"] = "none"
    rest: Literal["float32", "float16", "bfloat16"] = "float32"
    float_layers: tuple[str, ...] = ()
    wide_layers: tuple[str, ...] = ()
    own_order: bool = False
    again: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def __str__(self) -> str:
        if self.again:
            return "twice"
        if self.activations == "dynamic per token":
            return WIDTHS.get(self.wide_layers, f"wide in {', '.join(self.wide_layers)}")
        how = "-static" if self.activations == "static" else ""
        name = SHORT[self.weights] + (how if self.weights == "int8" else "")
        if self.rest not in (self.weights, "float32"):
            name += f"+{SHORT[self.rest]}"
        return name + (f" (float: {', '.join(self.float_layers)})" if self.float_layers else "")

    @property
    def defined(self) -> bool:
        """Whether logits are defined to the last bit, and so the same everywhere."""
        return self.activations == "dynamic per token" and not self.own_order

    @property
    def types(self) -> tuple[str, ...]:
        """Number types that its matmuls need."""
        return (self.weights, self.rest)


class Flip(Record, frozen=True):
    """An image whose decision the engine changed; a logit is None where it is no finite number."""

    image: str
    reference_logit: float | None
    engine_logit: float | None
    decisive: bool


class Comparison(Record, frozen=True):
    """Engine against reference on one set of images, each counted once.

    Attributes:
        reference: what made the reference logits.
        images: how many, 1 or more; `images_sha256` names their decoded views, in order.
        left_out: how many were given and do not count, by reason.
        flips, flip_share, flip_bounds: changed decisions: number, share, and exact bounds of the
            share (Clopper and Pearson), each one-sided at 95 % confidence.
        decisive_flips: from one side of the unsure band to the other.
        not_finite: images where a logit is no finite number; they count as decisive flips.
        logit_difference: absolute: "mean", "min", "max", and "p50", "p90", "p99" where so many
            images bound them; None for one that is not finite.
        auc_change, balanced_accuracy_change: engine minus reference, where labels are known.
        auc_change_error: its standard error, paired (DeLong).
        classes: images of the two classes, real first, where labels are known.
        flipped: every flipped image, the largest logit difference first.
    """

    reference: str
    images: int
    images_sha256: str
    left_out: dict[str, int]
    flips: int
    flip_share: float
    flip_bounds: tuple[float, float]
    decisive_flips: int
    not_finite: int
    logit_difference: dict[str, float | None]
    auc_change: float | None
    auc_change_error: float | None
    balanced_accuracy_change: float | None
    classes: tuple[int, int] | None
    flipped: list[Flip]


Answer = Literal["kept", "broken", "undecided"]

PUBLISHED = "judged when the detector was published; the same bits here"


class Finding(Record, frozen=True):
    """A term of a budget, judged.

    Attributes:
        answer: kept where the upper bound is within the limit, broken where the lower is over it.
        measured: what was seen; None where it could not be measured or is not finite.
        bounds: of what the term limits, each one-sided at the certificate's confidence. For
            `logit`, of the share of images that differ by more.
        more_images: how many more, like those seen, would decide; None if decided, or if no
            reasonable number would.
        reason: all of it in a sentence.
    """

    term: str
    answer: Answer
    measured: float | None
    bounds: tuple[float, float] | None
    more_images: int | None
    reason: str


class Certificate(Record, frozen=True):
    """What is known of whether an engine gives the trained model's verdicts.

    Attributes:
        answer: to the budget, by `images`; "unproven" where there are none.
        budget, confidence, findings: what it was judged by, and its terms one by one.
        smoke_test: the engine on the detector's drawn golden crops, which shows that it computes
            what it should and proves nothing about verdicts. None where it cannot run: `not_run`
            says why, and `mpft verify` runs it on the device.
        smoke_faults: why the smoke test failed; empty if it passed.
        images: the images that the budget was judged on.
        published: of the backend native: the network, by `mpft_deploy.engine.published`, that was
            run on these images when the detector was published. None if they were given here.
        not_judged: why verdicts were not judged by what was published; None if they were, or
            nothing was.
    """

    threshold: float
    unsure: tuple[float, float]
    answer: Literal["kept", "broken", "undecided", "unproven"]
    budget: str | None
    confidence: float | None
    findings: list[Finding]
    smoke_test: Comparison | None
    smoke_faults: list[str]
    images: Comparison | None
    not_run: str | None = None
    published: str | None = None
    not_judged: str | None = None

    @property
    def reasons(self) -> list[str]:
        """What speaks against the engine: faults of its smoke test, terms that were not kept."""
        return self.smoke_faults + [one.reason for one in self.findings if one.answer != "kept"]

    @property
    def summary(self) -> str:
        """The state in a line, for people."""
        if self.not_run is not None:
            return f"not run yet: {self.not_run}"
        if self.smoke_faults:
            return f"smoke test failed: {'; '.join(self.smoke_faults)}"
        if self.images is None:
            why = self.not_judged or "no images were given to judge verdicts by"
            return f"not proven: smoke test passed, {why}"
        told = "; ".join(one.reason for one in self.findings) or self.answer
        return f"{told} ({PUBLISHED})" if self.published is not None else told


class Latency(Record, frozen=True):
    """Milliseconds of one view on the device of the export, after warm-up.

    Attributes:
        patchify_ms, engine_ms, total_ms: "mean", "min", "max", and the percentiles that so many
            samples bound, such as "p50" and "p90".
        disturbed: what else the machine did meanwhile; empty if nothing was noticed.
    """

    samples: int
    threads: int
    patchify_ms: dict[str, float]
    engine_ms: dict[str, float]
    total_ms: dict[str, float]
    disturbed: tuple[str, ...] = ()


class BundleInfo(Record, frozen=True):
    """The manifest of a bundle, without hashes and seal.

    Attributes:
        mixes_views: whether a view's logit depends on the views that are judged with it, as it does
            where a scale is taken over the whole batch: read from the graph. Such an engine judges
            one view at a time.
        versions: of what the logits depend on: packages, driver, the GPU's name.
        sources: what it was made from.
        compute_capability: CUDA devices that the engine is for; empty for any device.
    """

    kind: Literal["bundle"]
    version: Literal[2]
    spec: DetectorSpec
    backend: str
    precision: Precision
    mixes_views: bool
    engine: str
    device: Device
    versions: dict[str, str]
    sources: dict[str, str]
    compute_capability: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A bundle as read and verified.

    engine: the checked bytes, in memory or where the file lies.
    latency: None where the engine has not run yet.
    seal: SHA-256 over the manifest: names this bundle and no other.
    signature: as stored, or None; checked only where a key was required.
    """

    path: Path
    info: BundleInfo
    engine: bytes | memoryview
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
    sealed = read_sealed(path, version=VERSION, kind=KIND, verify=verify, mapped=(MAPPED,))
    content = sealed.content
    engines: dict[str, bytes | memoryview] = {**content, **sealed.mapped}
    info: BundleInfo = convert_record(sealed.payload, BundleInfo, display(path / MANIFEST))
    for name in (info.engine, GOLDEN, CERTIFICATE):
        if name not in (engines if name == info.engine else content):
            raise InputError(f"{display(path)} is incomplete: its manifest does not list {name}")

    def record(name: str, kind: type[Any]) -> Any:
        where = display(path / name)
        try:
            payload = msgspec.json.decode(content[name])
        except MALFORMED:
            raise InputError(f"{where} is damaged: it is not JSON. Export it again.") from None
        return convert_record(payload, kind, where)

    certificate: Certificate = record(CERTIFICATE, Certificate)
    if certificate.not_run is None and certificate.smoke_test is None:
        raise InputError(f"{display(path)} is incomplete: it lacks its proof")
    return Bundle(
        path,
        info,
        engines[info.engine],
        Golden.from_bytes(content[GOLDEN], info.spec, display(path / GOLDEN)),
        certificate,
        record(LATENCY, Latency) if LATENCY in content else None,
        sealed.seal,
        sealed.signature,
    )


def write_bundle(
    path: Path,
    info: BundleInfo,
    engine: bytes | memoryview,
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
