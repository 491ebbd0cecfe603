"""What an export works from: detector, calibration, reference; each made once, when first needed.

The candidates of a search share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.bundle import Comparison
from mpft_deploy.dataset import find_samples
from mpft_deploy.detector_folder import DetectorFolder, Golden, read_detector
from mpft_deploy.engine import Engine, wide_of
from mpft_deploy.engine.certificate import TRAINED, compare, run_views
from mpft_deploy.engine.published import Published, find_published
from mpft_deploy.engine.reference import Reference, activation_maxima
from mpft_deploy.errors import InputError
from mpft_deploy.evaluate.scores import mean_over_views
from mpft_deploy.export.smoothing import Smoothed, smooth
from mpft_deploy.files import display, sha256
from mpft_deploy.finding import find_images, others_in
from mpft_deploy.images import U8, read_picture
from mpft_deploy.prepared import prepare
from mpft_deploy.spec import DetectorSpec, KeepRule, ViewPolicy
from mpft_deploy.views import centre_alone
from mpft_deploy.weights import F32

BATCH = 16
CALIBRATION_IMAGES = 128
FLOAT32 = "float32 in NumPy"
SHOWN = 20
"""Images that an error names."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Views:
    """Decoded images to compare on, each once.

    pixels: of each image the views that screening judges by, u8 [V, S, S, 3]; names: [n];
        hashes: [n], SHA-256 of the pixels.
    labels: [n], 1 for generated; None unless every image lies in a class folder.
    left_out: how many were given and do not count, by reason.
    """

    pixels: list[U8]
    names: list[str]
    hashes: list[str]
    labels: npt.NDArray[np.int_] | None
    left_out: dict[str, int]

    def where(self, chosen: Sequence[bool], reason: str) -> Views:
        """Those that are chosen; the others are left out for the reason."""
        index = np.flatnonzero(chosen)
        return Views(
            [self.pixels[i] for i in index],
            [self.names[i] for i in index],
            [self.hashes[i] for i in index],
            None if self.labels is None else self.labels[index],
            {**self.left_out, reason: len(self.names) - len(index)},
        )

    @property
    def pixels_sha256(self) -> str:
        """SHA-256 over those of the images' views."""
        return sha256("".join(self.hashes).encode())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, names and labels."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        names = "\0".join(self.names).encode("utf-8", "backslashreplace")
        parts = [*self.hashes, sha256(names), sha256(labels)]
        return sha256("".join(parts).encode())


@dataclass(frozen=True)
class Materials:
    """Where the materials of an export come from.

    Attributes:
        path: the detector's folder.
        images, calibrate: folders; without `calibrate` the golden crops serve.
        say: told each step as it begins.
    """

    path: Path
    images: tuple[Path, ...]
    calibrate: tuple[Path, ...]
    say: Say

    @cached_property
    def detector(self) -> DetectorFolder:
        """The detector, read and checked."""
        return read_detector(self.path)

    def spec_at(self, keep: str | None) -> DetectorSpec:
        """The detector's spec, with another keep rule for inference if one is given."""
        return with_keep(self.detector.spec, keep)

    @cached_property
    def _published(self) -> dict[str, tuple[Published | None, str | None]]:
        return {}

    def published_at(self, keep: str | None) -> tuple[Published | None, str | None]:
        """As `find_published`, at a keep rule; found once."""
        at = self.spec_at(keep).keep
        if at not in self._published:
            self._published[at] = find_published(self.detector, at)
        return self._published[at]

    @cached_property
    def calibration_views(self) -> U8:
        """Views u8 [n, S, S, 3] that the quantised precisions are fitted to.

        Of many images, as many of each class, drawn by the hash of their names.
        """
        if not self.calibrate:
            return self.detector.golden.crops
        paths, names = list_images("--calibrate", self.calibrate)
        labels = _labels(self.calibrate, paths)
        chosen = spread(names, labels, CALIBRATION_IMAGES)
        crops, _ = self._decode("--calibrate", [paths[i] for i in chosen], "centre")
        return np.concatenate(crops)

    @property
    def calibrated_on(self) -> str:
        """What `calibration_views` are, for people."""
        if not self.calibrate:
            return f"the {len(self.calibration_views)} drawn golden crops"
        return f"{len(self.calibration_views)} images of --calibrate"

    def read_images(self) -> None:
        """Decode all images now: one that cannot be is told before any work is done."""
        self.views, self.calibration_views  # noqa: B018, they are kept once they are read

    @cached_property
    def maxima(self) -> dict[str, F32]:
        """Largest activations on the calibration views; as `smooth` takes them."""
        self.say(f"calibrating on {self.calibrated_on}")
        return activation_maxima(self.detector.spec, self.detector.weights, self.calibration_views)

    def smoothed(self, float_layers: Sequence[str] = ()) -> Smoothed:
        """Weights that quantise better, and the ranges of activations under them."""
        return smooth(self.detector.spec, self.detector.weights, self.maxima, float_layers)

    @cached_property
    def views(self) -> Views | None:
        """The images to judge on; None where none were named.

        Images whose views have the pixels of another's, or one of those that the precisions are
        fitted to, are left out.

        Raises:
            InputError: none is left, or the same view lies in both classes.
        """
        if not self.images:
            return None
        paths, names = list_images("--images", self.images)
        if others := others_in(self.images):
            self.say(others)
        policy = self.detector.spec.calibration.views
        pixels, judged = self._decode("--images", paths, policy)
        hashes = [sha256(view.tobytes()) for view in pixels]
        every = Views(pixels, names, hashes, _labels(self.images, paths), {})
        whole = every.where(judged, "without a verdict: too small, or too little texture")
        _refuse_contradictions(whole)
        first = {digest: index for index, digest in reversed([*enumerate(whole.hashes)])}
        own = [first[one] == index for index, one in enumerate(whole.hashes)]
        once = whole.where(own, "copies of others")
        fitted = {sha256(view.tobytes()) for view in self.calibration_views}
        apart = once.where(
            [not any(sha256(view.tobytes()) in fitted for view in one) for one in once.pixels],
            "used for calibration",
        )
        if not apart.names:
            raise InputError(
                f"--images: none of the {len(paths)} images there can judge: each is one of "
                "--calibrate too, or has no verdict; name others"
            )
        return apart

    @cached_property
    def halves(self) -> tuple[Views, Views]:
        """`views`, which must be there, by their pixels' hash: those to choose an engine by, and
        those to judge the chosen one by.

        Raises:
            InputError: one of the halves is empty.
        """
        assert self.views is not None
        chooses = [int(digest[:8], 16) % 2 == 0 for digest in self.views.hashes]
        judges = [not one for one in chooses]
        if all(chooses) or all(judges):
            raise InputError(
                f"--images: a search needs images to choose by and others to judge by, and "
                f"{len(chooses)} are too few to split"
            )
        return (
            self.views.where(chooses, "kept to judge by"),
            self.views.where(judges, "used to choose by"),
        )

    def _decode(
        self, option: str, paths: Sequence[Path], policy: ViewPolicy
    ) -> tuple[list[U8], list[bool]]:
        """Views u8 [V, S, S, 3] of each image, and of which there is a verdict when screening.

        Raises:
            InputError: names all that cannot be decoded.
        """
        spec = self.detector.spec
        centre = centre_alone(spec.crop, policy)
        crops, judged, bad = [], [], []
        for number, path in enumerate(paths):
            if number % BATCH == 0:
                self.say(f"decoding image {number + 1} of {len(paths)}")
            try:
                picture = read_picture(path, centre=centre)
            except InputError as error:
                bad.append(str(error))
                continue
            prepared = prepare(spec, picture.pixels, policy, picture.whole)
            crops.append(prepared.views[prepared.telling])
            judged.append(not prepared.reason)
        if bad:
            more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
            raise InputError(
                f"{option}: {len(bad)} of {len(paths)} images cannot be read. Mend or remove them:"
                + "".join(f"\n  {line}" for line in bad[:SHOWN] + more)
            )
        return crops, judged

    @cached_property
    def reference(self) -> Engine:
        """The detector in float32; cells are what it is shown, by whatever keep rule."""
        return Reference(self.detector.spec, self.detector.weights)

    def golden_at(self, keep: str | None) -> tuple[Golden, str]:
        """Golden crops with the logits that an engine of a keep rule should give, and whose.

        At the detector's own rule the trained model's; at another, which it was never run at, the
        reference's.
        """
        golden, spec = self.detector.golden, self.spec_at(keep)
        if spec.keep == self.detector.spec.keep:
            return golden, TRAINED
        logits = self.run(FLOAT32, self.reference, golden.crops[:, None], spec)
        return Golden(golden.crops, logits), f"{FLOAT32} on the drawn crops, {spec.keep}"

    @cached_property
    def _reference_logits(self) -> dict[str, np.float32]:
        return {}

    def reference_logits(self, views: Views) -> F32:
        """What `reference` gives on views, f32 [n]; each is run once."""
        known = self._reference_logits
        new = [index for index, one in enumerate(views.hashes) if one not in known]
        if new:
            spec = self.detector.spec
            unknown = [views.pixels[index] for index in new]
            logits = self.run(FLOAT32, self.reference, unknown, spec)
            known.update(zip((views.hashes[i] for i in new), logits, strict=True))
        return np.array([known[one] for one in views.hashes], np.float32)

    def compare_images(
        self, engine: Engine, spec: DetectorSpec, views: Views, again: float = 0
    ) -> Comparison:
        """Compare an engine, run by `spec`, with the reference at the detector's own rule.

        Args:
            again: of its precision.
        """
        calibration = self.detector.spec.calibration
        logits = self.run("the engine", engine, views.pixels, spec)
        near = [i for i, logit in enumerate(logits) if again and calibration.is_near(logit, again)]
        if near:
            pixels = [views.pixels[index] for index in near]
            logits[near] = self.run("the engine once more", wide_of(engine), pixels, spec)
        return compare(
            self.reference_logits(views),
            logits,
            calibration,
            names=views.names,
            images_sha256=views.pixels_sha256,
            reference_name=f"{FLOAT32}, {self.detector.spec.keep}",
            labels=views.labels,
            left_out=views.left_out,
        )

    def run(self, name: str, engine: Engine, pixels: Sequence[U8] | U8, spec: DetectorSpec) -> F32:
        """Logits f32 [n] of images, with progress told by the engine's `name`.

        Args:
            pixels: of each image its views, u8 [V, S, S, 3]; its logit is their mean.
        """
        logits = []
        for number, crops in enumerate(pixels):
            if number % BATCH == 0:
                self.say(f"running {name}: image {number + 1} of {len(pixels)}")
            logits.append(run_views(engine, spec, crops))
        return mean_over_views(np.concatenate(logits), [len(crops) for crops in pixels])


def with_keep(spec: DetectorSpec, keep: str | None) -> DetectorSpec:
    """A spec with another keep rule for inference, if one is given; a UsageError if it cannot be.

    A number is a count of the kind that the spec keeps, or of textured cells if it keeps all.
    """
    if keep is None:
        return spec
    kind = spec.keep_rule.kind
    named = keep if not keep.isdecimal() else f"{'textured' if kind == 'all' else kind}:{keep}"
    rule = KeepRule.parse(named)
    rule.resolve(spec.cells)
    return msgspec.structs.replace(spec, keep=str(rule))


def spread(names: Sequence[str], labels: npt.NDArray[np.int_] | None, count: int) -> list[int]:
    """At most `count` indices of names, as evenly from each class as they allow, by hash."""
    by_hash = sorted(range(len(names)), key=lambda i: sha256(names[i].encode("utf-8", "replace")))
    rank: dict[int, int] = {}
    seen = {0: 0, 1: 0}
    for index in by_hash:
        label = 0 if labels is None else int(labels[index])
        rank[index] = seen[label]
        seen[label] += 1
    return sorted(by_hash, key=rank.__getitem__)[:count]


def list_images(option: str, folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Images under the folders, and their names from each folder on; at least one."""
    paths, names = [], []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{option} {display(folder)} is not a folder")
        found = list(find_images(folder))
        paths += found
        names += [display(path.relative_to(folder.parent)) for path in found]
    if not paths:
        raise InputError(f"{option}: no image under {', '.join(map(display, folders))}")
    return paths, names


def _labels(folders: Sequence[Path], paths: Sequence[Path]) -> npt.NDArray[np.int_] | None:
    """Labels of the images by their class folders; None unless each has one."""
    try:
        known = {sample.path: sample.label for sample in find_samples(folders)}
    except InputError:  # no class folder at all
        return None
    return np.array([known[path] for path in paths]) if known.keys() >= set(paths) else None


def _refuse_contradictions(views: Views) -> None:
    """An InputError if the same view is called real and generated."""
    if views.labels is None:
        return
    known: dict[str, int] = {}
    for index, digest in enumerate(views.hashes):
        other = known.setdefault(digest, index)
        if views.labels[other] != views.labels[index]:
            raise InputError(
                f"{views.names[other]} and {views.names[index]} hold the same pixels and lie in "
                "both classes: remove one"
            )
