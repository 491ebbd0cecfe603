"""The detector spec: the one description that training, export and every runtime read.

Stored as JSON (see `mpft_deploy.detector_folder`). Unknown fields, wrong types and versions from
the future are errors that say what to do, never guesses.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from mpft_deploy.errors import InputError, UsageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

ViewPolicy = Literal["centre", "moving", "three", "five", "grid"]
"""Which windows of a picture are looked at; see `mpft_deploy.views`."""
KeepKind = Literal["smooth", "textured", "random", "all"]
Feature = Literal["token", "plain", "unit"]
Decision = Literal["real", "generated"]
Verdict = Literal["real", "generated", "unsure"]
StreamVerdict = Literal["no sign", "generated", "unsure"]
"""Of many frames; "no sign" that they are generated, which proves no stream real."""

Positive = Annotated[int, msgspec.Meta(gt=0, le=2**16)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class KeepRule:
    """Which cells of an image the encoder sees.

    `smooth` keeps the `count` cells of lowest texture, `textured` those of highest, `random` draws
    them from a seed and the image itself, `all` keeps every cell (`count` is None).
    Written `"textured:96"` or `"all"`.
    """

    kind: KeepKind
    count: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "all") != (self.count is None) or (
            self.count is not None and self.count < 1
        ):
            raise UsageError(f"keep rule {str(self)!r}: write 'all', or KIND:K with K of 1 or more")

    def __str__(self) -> str:
        return self.kind if self.count is None else f"{self.kind}:{self.count}"

    @classmethod
    def parse(cls, text: str) -> KeepRule:
        """Read `"smooth:K"`, `"textured:K"`, `"random:K"` or `"all"`; else a UsageError."""
        kind, colon, count = text.strip().partition(":")
        if kind == "all" and not colon:
            return cls("all")
        if kind in ("smooth", "textured", "random") and count.isascii() and count.isdecimal():
            return cls(kind, int(count))  # type: ignore[arg-type]  # narrowed by the test above
        raise UsageError(
            f"keep rule {text!r} is not understood: write smooth:K, textured:K, random:K or all, "
            "for example textured:96"
        )

    def resolve(self, cells: int) -> int:
        """The number of cells K kept out of `cells`; a UsageError if there are fewer than K."""
        if self.count is None:
            return cells
        if self.count > cells:
            raise UsageError(
                f"keep rule {self}: an image has only {cells} cells; choose K from 1 to {cells}"
            )
        return self.count


def parse_mixture(text: str, cells: int) -> tuple[KeepRule, ...]:
    """Read one keep rule, or several joined by `+` that keep as many of `cells` cells."""
    rules = tuple(KeepRule.parse(part) for part in text.split("+"))
    if len({rule.resolve(cells) for rule in rules}) > 1:
        raise UsageError(
            f"keep rules {text!r} must keep the same number of cells, to share a batch"
        )
    return rules


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is stored as JSON: immutable, strict about its fields."""


class Architecture(Record, frozen=True):
    """Geometry of the vision transformer, in open_clip's terms."""

    name: str
    width: Positive
    layers: Positive
    heads: Positive
    hidden: Positive
    output_dim: Positive
    activation: Literal["gelu", "quick_gelu"]


def feature_width(architecture: Architecture, feature: Feature) -> int:
    """How many numbers the head reads after one block."""
    return architecture.width if feature == "token" else architecture.output_dim


class Scaling(Record, frozen=True):
    """How a whole picture is scaled before its centre is cut, by Pillow's integer arithmetic.

    Attributes:
        side: pixels of the shorter side afterwards; the longer one follows, rounded down.
        filter: Pillow's.
        square: the longer side gets as many, whatever the picture's proportions.
    """

    side: Annotated[int, msgspec.Meta(gt=0, le=2**12)]
    filter: Literal["bilinear", "bicubic"] = "bicubic"
    square: bool = False

    def __str__(self) -> str:
        return f"{self.side}x{self.side}" * self.square or str(self.side)


class Crop(Record, frozen=True):
    """How views are cut from a picture, and of which no verdict is given.

    Attributes:
        size: side of a view in pixels.
        policy: where views are cut, at the picture's own pixels.
        scaling: for detectors that were trained so: the one view is the centre of the whole picture
            scaled like this. None where views are cut at the picture's own pixels.
        small: how a window of a picture below `size` becomes a view; see `mpft_deploy.views`.
        least_side: pixels of a picture's shorter side, below which there is no verdict.
        least_texture: of a view's cells, below which it is not judged; `mpft_deploy.fitness` says
            how that is measured.
    """

    size: Positive
    policy: Literal["centre"] = "centre"
    small: str = "bicubic"
    least_side: Positive = 1
    least_texture: Annotated[int, msgspec.Meta(ge=0)] = 0
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if self.scaling is not None and self.scaling.side < self.size:
            raise ValueError(f"a side of {self.scaling.side} has no view of {self.size} pixels")
        if self.small != "bicubic":
            raise ValueError(
                f"crop.small is {self.small!r}, and small pictures are no longer repeated to fill "
                'a view but brought up: write "bicubic" into detector.json, seal it with '
                "mpft_deploy.detector_folder.reseal_detector, and export bundles of it again"
            )


class HeldOut(Record, frozen=True):
    """What a calibration is worth on images that it was not fitted to, in log odds.

    Images are taken by groups: those of one camera, collection or generator, which share what the
    detector gets wrong of them. Each group counts alike.

    Attributes:
        separation: from the mean of the real groups to that of the generated ones.
        error: how far a group's mean may be off ± half the separation, as a standard deviation:
            the upper end of its 80 % bound, of the class that is worse.
        spread: standard deviation of images within a group, of the class that is wider.
        real, generated: how many groups of each there were.
        images: how many images.
    """

    separation: Annotated[float, msgspec.Meta(gt=0)]
    error: Annotated[float, msgspec.Meta(ge=0)]
    spread: Annotated[float, msgspec.Meta(gt=0)]
    real: Positive
    generated: Positive
    images: Positive

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.separation, self.error, self.spread))):
            raise ValueError("separation, error and spread must be finite")


class Calibration(Record, frozen=True):
    """From logit to probability of "generated": sigmoid(scale · (logit + shift)).

    Belongs to the inference keep rule of its spec, and to logits that are means over `views` of a
    picture. Probabilities strictly inside `unsure` are called unsure.

    Attributes:
        prior: share of generated images, as the fit weighed them: the probability at which an image
            speaks for neither. One half in specs that do not say: every fit of this program weighs
            both classes alike.
        held_out: what it is worth on other images; None where nobody measured.
    """

    shift: float = 0.0
    scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    threshold: Probability = 0.5
    unsure: tuple[Probability, Probability] = (0.35, 0.65)
    views: ViewPolicy = "centre"
    prior: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    held_out: HeldOut | None = None

    def __post_init__(self) -> None:
        low, high = self.unsure
        if not low <= self.threshold <= high:
            raise ValueError(f"threshold {self.threshold} must lie within unsure [{low}, {high}]")
        if not (math.isfinite(self.shift) and math.isfinite(self.scale)):
            raise ValueError("shift and scale must be finite")

    def probability(self, logit: float) -> float:
        """Probability in [0, 1] that the image is generated."""
        z = self.scale * (logit + self.shift)
        # Both branches keep the exponent negative, so that no logit overflows.
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))

    def log_odds(self, logit: float) -> float:
        """Log-likelihood ratio of a logit, above 0 for generated: log odds less the prior's."""
        return self.scale * (logit + self.shift) - math.log(self.prior / (1 - self.prior))

    @property
    def logit_threshold(self) -> float:
        """The logit at which the probability reaches the threshold; ±inf for thresholds 1 and 0."""
        if self.threshold in (0.0, 1.0):
            return math.inf if self.threshold else -math.inf
        return math.log(self.threshold / (1 - self.threshold)) / self.scale - self.shift

    def decide(self, probability: float) -> Decision:
        """Which side of the threshold: the decision that a certificate counts flips of."""
        return "generated" if probability >= self.threshold else "real"

    def verdict(self, probability: float) -> Verdict:
        """The decision, or "unsure" strictly inside the band."""
        low, high = self.unsure
        return "unsure" if low < probability < high else self.decide(probability)

    def is_near(self, logit: float, by: float) -> bool:
        """Whether the verdict or the decision could be another if the logit moved by so much."""
        low, high = (self.probability(logit + move) for move in (-by, by))
        return self.verdict(low) != self.verdict(high) or self.decide(low) != self.decide(high)


class DetectorSpec(Record, frozen=True):
    """Everything that decides a verdict, besides the weights.

    Attributes:
        architecture: the backbone.
        depth: how many of its first blocks are run, 1 to `architecture.layers`.
        taps: after how many of these, the last ones, the class token is read.
        feature: what the head reads of each: the `token` itself after the last normalisation, or
            the backbone's embedding of it, as it is (`plain`) or divided by its length (`unit`).
        patch: side of a cell in pixels.
        crop: size and policy of the views.
        train_keep, fill: the masking rule of fine-tuning (`drop` the other cells or `zero` their
            pixels), or several rules joined by `+`; information only.
        keep: the rule of inference, which `calibration` belongs to.
        keep_seed: seed of a `random` inference rule.
        mean, std: normalisation of RGB in 0..1, folded into the first matmul by the export.
        decoder: how image files become pixels.
        calibration: of pictures; its `views` are what is looked at in one.
        stream: of frames of a stream; None where `calibration` serves these too.
        training: provenance, free of form.
    """

    architecture: Architecture
    depth: Positive
    patch: Annotated[int, msgspec.Meta(ge=4, le=64)]
    crop: Crop
    train_keep: str
    fill: Literal["drop", "zero"]
    keep: str
    keep_seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    taps: Positive = 1
    feature: Feature = "plain"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    decoder: Literal["libjpeg-exact"] = "libjpeg-exact"
    calibration: Calibration = Calibration()
    stream: Calibration | None = None
    training: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.depth > self.architecture.layers:
            raise ValueError(f"depth {self.depth} exceeds the {self.architecture.layers} blocks")
        if self.taps > self.depth:
            raise ValueError(f"{self.taps} taps exceed the {self.depth} blocks that are run")
        if self.crop.size % self.patch:
            raise ValueError(f"crop size {self.crop.size} is no multiple of patch {self.patch}")
        for one in (self.calibration, self.stream):
            if one is not None:
                self.check_views(one.views)
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        KeepRule.parse(self.keep).resolve(self.cells)
        parse_mixture(self.train_keep, self.cells)

    def check_views(self, views: ViewPolicy) -> None:
        """A UsageError for views other than the one that a scaled picture has."""
        if self.crop.scaling is not None and views != "centre":
            raise UsageError(
                f"views {views} cannot be had: this detector looks at the whole picture, scaled to "
                f"{self.crop.scaling} pixels; leave --views out"
            )

    @property
    def stream_views(self) -> ViewPolicy:
        """What is looked at in a frame of a stream."""
        return (self.stream or self.calibration).views

    def calibration_of(self, views: ViewPolicy) -> Calibration:
        """The calibration for such views: that of pictures if there is none for them."""
        stream = self.stream
        return stream if stream is not None and stream.views == views else self.calibration

    @property
    def cells(self) -> int:
        """Cells N of a view: (size / patch)²."""
        return (self.crop.size // self.patch) ** 2

    @property
    def keep_rule(self) -> KeepRule:
        """The inference rule, parsed."""
        return KeepRule.parse(self.keep)

    @property
    def tokens(self) -> int:
        """Cells K that the encoder sees of a view at inference."""
        return self.keep_rule.resolve(self.cells)


def record_schema(kind: type[Record] | Any) -> dict[str, Any]:
    """JSON Schema of a record or of a union of some; descriptions without the indentation of
    docstrings, which some versions of Python and msgspec leave in."""

    def cleaned(part: dict[str, Any]) -> dict[str, Any]:
        text = part.get("description")
        return part | {"description": inspect.cleandoc(text)} if isinstance(text, str) else part

    encoded = msgspec.json.encode(msgspec.json.schema(kind))
    return json.loads(encoded, object_hook=cleaned)  # type: ignore[no-any-return]


def convert_record(payload: object, kind: type[Any], where: str) -> Any:
    """Turn parsed JSON into a Record of type `kind`; an InputError that names `where` otherwise."""
    try:
        return msgspec.convert(payload, kind)
    except (msgspec.ValidationError, UsageError) as error:
        raise InputError(
            f"{where} is not valid: {error}. It may come from another version of mpft-deploy; "
            "write it again with this one."
        ) from None
