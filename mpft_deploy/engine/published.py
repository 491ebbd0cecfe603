"""What the engines of the backend native change of a detector's verdicts, measured once.

Their logits are the same everywhere, so what was measured where a detector was published holds on
every device. Kept are the logits, of the reference and of each precision: verdicts follow from them
at whatever threshold and budget. Those of the golden crops, which every export repeats, show that
its network is the one that was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from mpft_deploy.bundle import Comparison
from mpft_deploy.detector_folder import CERTIFICATE, DetectorFolder
from mpft_deploy.engine import native
from mpft_deploy.engine.budget import Budget, default_budget, overall
from mpft_deploy.engine.certificate import compare
from mpft_deploy.errors import InputError
from mpft_deploy.files import display
from mpft_deploy.kernels.encoder.oracle import DEFINITION
from mpft_deploy.spec import MALFORMED, Record, ViewPolicy, convert_record
from mpft_deploy.weights import F32, Rows, decode, metadata_of

HEADER = "mpft.published"


class Header(Record, frozen=True):
    """What the tensors do not say.

    Attributes:
        network: of `network_of`.
        reference: what made the reference logits.
        keep: the rule by which cells were kept.
        views: that a picture's logit is the mean of.
        names: of the images, [n]; images_sha256 is of their views.
        left_out: images that do not count, by reason.
    """

    network: str
    reference: str
    keep: str
    views: ViewPolicy
    names: tuple[str, ...]
    images_sha256: str
    left_out: dict[str, int]


@dataclass(frozen=True)
class Published:
    """Logits of images, by the reference and by each precision of the backend native.

    reference: f32 [n]; logits: precision → f32 [n]; golden: precision → f32 [G], of the detector's
        golden crops.
    labels: i8 [n], 1 for generated; None where they are not known.
    """

    header: Header
    reference: F32
    logits: Mapping[str, F32]
    golden: Mapping[str, F32]
    labels: npt.NDArray[np.int8] | None

    def to_bytes(self) -> bytes:
        """As safetensors."""
        tensors: dict[str, npt.NDArray[np.generic]] = {"reference": self.reference}
        for name, value in self.logits.items():
            tensors[name], tensors[f"golden.{name}"] = value, self.golden[name]
        if self.labels is not None:
            tensors["labels"] = self.labels
        metadata = {HEADER: msgspec.json.encode(self.header).decode()}
        data: bytes = safetensors.numpy.save(tensors, metadata)
        return data

    @property
    def again(self) -> float:
        """By how much a picture's narrow logit differs from its wide one at most."""
        narrow, wide = (self.logits[name].astype(np.float64) for name in ("narrow", "wide"))
        return float(np.abs(narrow - wide).max())

    def golden_of(self, precision: str) -> F32:
        """What an engine gives of the golden crops."""
        return self.golden["narrow" if precision == "twice" else precision]

    def compare(self, detector: DetectorFolder, precision: str) -> Comparison:
        """A precision's logits with the reference's, by the detector's threshold as it is now."""
        calibration = detector.spec.calibration
        if precision == "twice":
            narrow, wide = self.logits["narrow"], self.logits["wide"]
            near = [calibration.is_near(float(logit), self.again) for logit in narrow]
            logits = np.where(near, wide, narrow)
        else:
            logits = self.logits[precision]
        return compare(
            self.reference,
            logits,
            calibration,
            names=self.header.names,
            images_sha256=self.header.images_sha256,
            reference_name=self.header.reference,
            labels=None if self.labels is None else self.labels.astype(np.int_),
            left_out=self.header.left_out,
        )


def read_published(detector: DetectorFolder) -> Published | None:
    """What a detector's folder holds, or None if nothing was measured.

    Raises:
        InputError: damaged.
    """
    if detector.certificate is None:
        return None
    where = display(detector.path / CERTIFICATE)
    tensors = decode(detector.certificate, where)
    try:
        payload = msgspec.json.decode(metadata_of(detector.certificate)[HEADER])
    except (*MALFORMED, KeyError):
        raise InputError(f"{where} is not what `mpft certify` writes. Run it again.") from None
    header: Header = convert_record(payload, Header, where)
    images, crops = len(header.names), len(detector.golden.logits)
    expected: dict[str, tuple[type, int]] = {"reference": (np.float32, images)}
    for name in native.MEASURED:
        expected |= {name: (np.float32, images), f"golden.{name}": (np.float32, crops)}
    if "labels" in tensors:
        expected["labels"] = (np.int8, images)
    found = {name: (value.dtype.type, value.shape) for name, value in tensors.items()}
    if not images or found != {name: (kind, (size,)) for name, (kind, size) in expected.items()}:
        raise InputError(
            f"{where} does not hold the logits of {images} images and {crops} golden crops. "
            f"Run `mpft certify` again."
        )

    def of(prefix: str) -> dict[str, F32]:
        return {name: np.asarray(tensors[prefix + name], np.float32) for name in native.MEASURED}

    labels = np.asarray(tensors["labels"], np.int8) if "labels" in tensors else None
    reference = np.asarray(tensors["reference"], np.float32)
    return Published(header, reference, of(""), of("golden."), labels)


def find_published(detector: DetectorFolder, keep: str) -> tuple[Published | None, str | None]:
    """What was measured of a detector's engines at a keep rule, or why what was does not hold of
    them; neither if nothing was."""
    found = read_published(detector)
    if found is None:
        return None, None
    header, views = found.header, detector.spec.calibration.views
    if (header.keep, header.views) != (keep, views):
        reason = f"cells {header.keep} and views {header.views}, not {keep} and {views}"
    elif header.network != network_of(detector):
        reason = "other weights, or of another version of the network's definition"
    else:
        return found, None
    return None, f"the detector's certificate is of {reason} (see `mpft certify`)"


def narrowest(detector: DetectorFolder, published: Published | None, budget: Budget | None) -> str:
    """The narrowest precision of the backend native, and so the fastest, that keeps a budget by
    what was published of a detector; the widest where none does, or nothing was.

    Args:
        budget: None for the usual one.
    """
    widest = native.PRECISIONS[0]
    if published is None:
        return widest
    for precision in reversed(native.PRECISIONS):
        compared = published.compare(detector, precision)
        findings = (budget or default_budget(precision)).judge(compared)
        if overall(findings, compared) == "kept":
            return precision
    return widest


def network_of(detector: DetectorFolder) -> str:
    """SHA-256 over the weights and the version of the network's definition."""
    digest = hashlib.sha256(f"definition {DEFINITION}\n".encode())
    for name, value in sorted(detector.stored.items()):
        parts = (value.integers, value.scale) if isinstance(value, Rows) else (value,)
        for part in parts:
            digest.update(f"{name} {part.dtype} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
