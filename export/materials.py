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
from mpft_deploy.detector_folder import DetectorFolder, read_detector
from mpft_deploy.engine import Engine, get_backend
from mpft_deploy.engine.certificate import compare, compare_golden, run_views
from mpft_deploy.errors import InputError
from mpft_deploy.export.calibration import activation_ranges
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.smoothing import smooth
from mpft_deploy.files import display, sha256
from mpft_deploy.images import U8, find_images, load_views, others_in
from mpft_deploy.spec import DetectorSpec, KeepRule
from mpft_deploy.weights import F32

BATCH = 16
CALIBRATION_IMAGES = 128
SHOWN = 20
"""Images that an error names."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Views:
    """Decoded images to compare on.

    pixels: u8 [n, S, S, 3]; names: [n].
    labels: [n], 1 for generated; None unless every image lies in a class folder.
    """

    pixels: U8
    names: list[str]
    labels: npt.NDArray[np.int_] | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, names and labels."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        names = "\0".join(self.names).encode("utf-8", "backslashreplace")
        parts = [sha256(self.pixels.tobytes()), sha256(names), sha256(labels)]
        return sha256("".join(parts).encode())


@dataclass(frozen=True)
class Materials:
    """Where the materials of an export come from.

    Attributes:
        path: the detector's folder.
        images, calibrate: folders; without `calibrate` the golden crops serve.
        threads: of the float32 reference; 0 takes all cores.
        say: told each step as it begins.
    """

    path: Path
    images: tuple[Path, ...]
    calibrate: tuple[Path, ...]
    threads: int
    say: Say

    @cached_property
    def detector(self) -> DetectorFolder:
        """The detector, read and checked."""
        return read_detector(self.path)

    def spec_at(self, keep: str | None) -> DetectorSpec:
        """The detector's spec, with another keep rule for inference if one is given."""
        return with_keep(self.detector.spec, keep)

    @cached_property
    def calibration_views(self) -> U8:
        """Views u8 [n, S, S, 3] that the quantised precisions are fitted to."""
        if not self.calibrate:
            return self.detector.golden.crops
        paths, _ = list_images("--calibrate", self.calibrate)
        step = max(1, len(paths) // CALIBRATION_IMAGES)
        return self._decode("--calibrate", paths[::step][:CALIBRATION_IMAGES])

    def read_images(self) -> None:
        """Decode all images now: one that cannot be is told before any work is done."""
        self.views, self.calibration_views  # noqa: B018, they are kept once they are read

    @cached_property
    def smoothed(self) -> dict[str, F32]:
        """Weights that quantise better; see `mpft_deploy.export.smoothing`."""
        self.say(f"smoothing on {len(self.calibration_views)} views")
        return smooth(self.detector.spec, self.detector.weights, self.calibration_views)

    @cached_property
    def ranges(self) -> dict[str, float]:
        """Ranges of activations under the smoothed weights, by layer."""
        return activation_ranges(self.detector.spec, self.smoothed, self.calibration_views)

    @cached_property
    def views(self) -> Views | None:
        """The images to certify on; None where none were named."""
        if not self.images:
            return None
        paths, names = list_images("--images", self.images)
        if others := others_in(self.images):
            self.say(others)
        return Views(self._decode("--images", paths), names, _labels(self.images, paths))

    def _decode(self, option: str, paths: Sequence[Path]) -> U8:
        """Views u8 [n, S, S, 3] of image files; an InputError that names all it cannot decode."""
        crops, bad = [], []
        for number, path in enumerate(paths):
            if number % BATCH == 0:
                self.say(f"decoding image {number + 1} of {len(paths)}")
            try:
                crops.append(load_views([path], self.detector.spec.crop.size))
            except InputError as error:
                bad.append(str(error))
        if bad:
            more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
            raise InputError(
                f"{option}: {len(bad)} of {len(paths)} images cannot be read. Mend or remove them:"
                + "".join(f"\n  {line}" for line in bad[:SHOWN] + more)
            )
        return np.concatenate(crops)

    @cached_property
    def reference(self) -> Engine:
        """The float32 graph on ONNX Runtime."""
        exact = serialise(build_graph(self.detector.spec, self.detector.weights))
        return get_backend("onnxruntime").load(exact, threads=self.threads)

    def compare_keep(self, keep: str) -> Comparison:
        """What another keep rule alone changes, in float32, on `views` or else the golden crops."""
        spec = self.spec_at(keep)
        exact = serialise(build_graph(spec, self.detector.weights))
        engine = get_backend("onnxruntime").load(exact, threads=self.threads)
        on_images = self.compare_images(engine, spec)
        return on_images or compare_golden(engine, spec, self.detector.golden)

    @cached_property
    def reference_logits(self) -> F32:
        """What `reference` gives on `views`, which must be there; f32 [n]."""
        assert self.views is not None
        return self.run("the float32 graph", self.reference, self.views.pixels, self.detector.spec)

    def compare_images(self, engine: Engine, spec: DetectorSpec) -> Comparison | None:
        """Compare an engine, run by `spec`, with the float32 graph at the detector's own rule.

        None where there are no `views` to compare on.
        """
        if self.views is None:
            return None
        reference = self.reference_logits
        return compare(
            reference,
            self.run("the engine", engine, self.views.pixels, spec),
            self.detector.spec.calibration,
            names=self.views.names,
            views=self.views.pixels,
            reference_name=f"float32 graph on ONNX Runtime, {self.detector.spec.keep}",
            labels=self.views.labels,
        )

    def run(self, name: str, engine: Engine, pixels: U8, spec: DetectorSpec) -> F32:
        """Logits f32 [n] of views u8 [n, S, S, 3], with progress told by the engine's `name`."""
        logits = []
        for start in range(0, len(pixels), BATCH):
            self.say(f"running {name}: image {start + 1} of {len(pixels)}")
            logits.append(run_views(engine, spec, pixels[start : start + BATCH]))
        return np.concatenate(logits)


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
