"""A certificate that is made once and holds of every bundle of a detector, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from mpft_deploy.bundle import read_bundle
from mpft_deploy.detector_folder import (
    CERTIFICATE,
    read_detector,
    reseal_detector,
    rewrite_detector,
)
from mpft_deploy.engine.published import Published, find_published, read_published
from mpft_deploy.errors import InputError

Mpft = Callable[..., tuple[int, str, str]]
SEED = 7


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images in two classes, one of them twice."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    for index in range(20):
        path = folder / ("0_real", "1_fake")[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    (folder / "0_real" / "copy.png").write_bytes((folder / "0_real" / "0.png").read_bytes())
    return folder


@pytest.fixture
def own(tmp_path: Path, make_detector: Callable[..., object]) -> Path:
    """A detector without a certificate."""
    make_detector(tmp_path / "own", SEED)
    return tmp_path / "own"


@pytest.fixture
def certified(own: Path, pictures: Path, mpft: Mpft) -> Path:
    code, text, errors = mpft("certify", own, pictures, "--json")
    assert code == 0, errors
    result = json.loads(text)
    assert result["wide"]["images"] == 20
    assert result["wide"]["left_out"]["copies of others"] == 1
    assert result["narrow"]["classes"] == [10, 10]
    return own


def published_of(folder: Path) -> Published:
    found = read_published(read_detector(folder))
    assert found is not None
    return found


def test_a_bundle_needs_no_images_of_its_own(certified: Path, tmp_path: Path, mpft: Mpft) -> None:
    published = published_of(certified)
    for precision, error in (("wide", 0.05), ("narrow", 0.5)):
        difference = np.abs(published.logits[precision] - published.reference)
        assert 0 < difference.max() < error
    out = tmp_path / "bundle"
    code, text, errors = mpft("export", certified, out, "--budget", "flips<=20%")
    assert code == 0, errors
    assert "when the detector was published; the same bits here" in text
    certificate = read_bundle(out).certificate
    assert certificate.answer == "kept"
    assert certificate.published == published.header.network
    assert certificate.images == published.compare(read_detector(certified), "narrow")
    for command in ("verify", "inspect"):
        code, text, _ = mpft(command, out)
        assert code == 0
        assert "the same bits here" in text
    code, text, _ = mpft("inspect", certified)
    assert code == 0
    assert text.count("of 20 verdicts") == 3
    # The default budget takes more images than twenty, and is not waived for them.
    assert mpft("export", certified, tmp_path / "two")[0] == 1


def test_flips_are_of_the_threshold_as_it_is_now(certified: Path) -> None:
    """Logits are kept, not counts: a detector that is calibrated anew needs no new certificate."""
    logits = np.linspace(-0.95, 0.95, 20, dtype=np.float32)  # steps of 0.1
    off = {"narrow": logits + np.float32(0.2)}
    for threshold, flips in ((0.0, 2), (1.1, 1), (3.0, 0)):
        spec = read_detector(certified).spec
        calibration = msgspec.structs.replace(
            spec.calibration, shift=-threshold, threshold=0.5, unsure=(0.5, 0.5)
        )
        rewrite_detector(certified, msgspec.structs.replace(spec, calibration=calibration))
        found, reason = find_published(read_detector(certified), spec.keep)
        assert reason is None
        assert found is not None
        known = replace(found, reference=logits, logits=off)
        assert known.compare(read_detector(certified), "narrow").flips == flips


@pytest.mark.parametrize(
    ("budget", "narrow", "wide", "chosen"),
    [
        ("flips<=20%", 0, 0, "narrow"),
        ("flips<=20%", 5, 0, "twice"),
        (None, 0, 0, "wide"),  # one flip in a hundred takes more images than twenty
    ],
)
def test_the_narrowest_that_keeps_the_budget_is_exported(
    certified: Path, tmp_path: Path, mpft: Mpft, budget: str | None, narrow: int, wide: int,
    chosen: str,
) -> None:  # fmt: skip
    """Without being told a precision; of two that keep it the faster one."""
    found = published_of(certified)
    logits = {**found.logits}
    for precision, flips in (("narrow", narrow), ("wide", wide)):
        logits[precision] = found.reference.copy()
        logits[precision][:flips] = np.where(found.reference[:flips] > 0, -9, 9)
    data = replace(found, logits=logits).to_bytes()
    rewrite_detector(certified, read_detector(certified).spec, certificate=data)
    options = ["--budget", budget] if budget else ["--allow-unproven"]
    code, _, errors = mpft("export", certified, tmp_path / "bundle", *options)
    assert code == (0 if budget else 1), errors
    assert str(read_bundle(tmp_path / "bundle").info.precision) == chosen
    code, text, _ = mpft("export", certified, tmp_path / "other", *options, "--dry-run", "--json")
    plan = json.loads(text)
    assert plan["precision"].startswith(chosen)
    assert plan["budget"] == f"{budget or 'flips<=1%'}, by the detector's own certificate"


def test_what_is_near_a_bound_is_judged_twice(
    certified: Path, pictures: Path, tmp_path: Path, mpft: Mpft
) -> None:
    """Its logits are narrow ones, and wide ones near a bound; its verdicts are all wide ones."""
    found = published_of(certified)
    spec = read_detector(certified).spec
    middle = float(np.sort(found.logits["narrow"])[10])
    calibration = msgspec.structs.replace(
        spec.calibration, shift=-middle, threshold=0.5, unsure=(0.5, 0.5)
    )
    rewrite_detector(certified, msgspec.structs.replace(spec, calibration=calibration))
    told = {}
    for precision in ("narrow", "wide", "twice"):
        out = tmp_path / precision
        options = ("--precision", precision, "--budget", "flips<=99%")
        assert mpft("export", certified, out, *options)[0] == 0
        code, text, _ = mpft("screen", pictures, "--bundle", out, "--json")
        assert code == 0
        told[precision] = [one for one in map(json.loads, text.splitlines()) if "logit" in one]
    again = read_bundle(tmp_path / "twice").info.precision.again
    assert 0 < again == found.again
    near = [abs(one["logit"] - middle) <= again for one in told["narrow"]]
    assert 0 < sum(near) < len(near)
    for close, narrow, wide, twice in zip(near, *told.values(), strict=True):
        assert twice["logit"] == (wide if close else narrow)["logit"]
        assert twice["verdict"] == wide["verdict"]


def test_without_a_certificate_nobody_knows_what_is_near(
    own: Path, tmp_path: Path, mpft: Mpft
) -> None:
    code, _, errors = mpft("export", own, tmp_path / "bundle", "--precision", "twice")
    assert code == 2
    assert "it has none. Make one with `mpft certify`" in errors


def test_what_is_of_another_network_is_not_believed(
    certified: Path, tmp_path: Path, make_detector: Callable[..., object], mpft: Mpft
) -> None:
    data = read_detector(certified).certificate
    make_detector(tmp_path / "other", SEED + 1)
    rewrite_detector(tmp_path / "other", read_detector(tmp_path / "other").spec, certificate=data)
    out = tmp_path / "bundle"
    code, text, _ = mpft("export", tmp_path / "other", out)
    assert code == 0
    assert "NOT PROVEN: the detector's certificate is of other weights" in text
    assert read_bundle(out).certificate.published is None
    code, text, _ = mpft("inspect", tmp_path / "other")
    assert "is of other weights" in text
    code, _, errors = mpft(
        "export", tmp_path / "other", out, "--budget", "flips<=9%", "--overwrite"
    )
    assert code == 2
    assert "is of other weights" in errors
    code, text, _ = mpft("export", certified, out, "--keep", "4", "--overwrite")
    assert code == 0
    assert "is of cells textured:6 and views centre, not textured:4 and centre" in text


def test_a_machine_that_computes_other_bits_is_refused(
    certified: Path, tmp_path: Path, mpft: Mpft
) -> None:
    found = published_of(certified)
    golden = found.golden["wide"].copy()
    golden[5] = np.nextafter(golden[5], np.float32(np.inf))
    changed = replace(found, golden={**found.golden, "wide": golden})
    spec = read_detector(certified).spec
    rewrite_detector(certified, spec, certificate=changed.to_bytes())
    arguments = ("export", certified, tmp_path / "bundle", "--budget", "flips<=20%")
    code, _, errors = mpft(*arguments, "--precision", "wide")
    assert code == 1
    assert "not those of the published certificate in every bit" in errors
    assert mpft(*arguments, "--precision", "narrow")[0] == 0


def test_damage_is_told(certified: Path) -> None:
    path = certified / CERTIFICATE
    whole = path.read_bytes()
    found = published_of(certified)
    shorter = replace(found, reference=found.reference[1:]).to_bytes()
    missing = replace(found, golden={}, logits={}).to_bytes()
    for data in (
        b"",
        whole[:-1],
        whole.replace(b"mpft.published", b"mpft.publishes"),
        shorter,
        missing,
    ):
        path.write_bytes(data)
        reseal_detector(certified)
        with pytest.raises(InputError, match=CERTIFICATE):
            read_published(read_detector(certified))
