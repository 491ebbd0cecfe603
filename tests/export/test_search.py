"""The search for the fastest engine within a budget, on tiny detectors with real engines."""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mpft_deploy.bundle import read_bundle
from mpft_deploy.cli.export import command
from mpft_deploy.cli.main import run
from mpft_deploy.cli.verify import command as verify
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine.budget import Budget
from mpft_deploy.engine.ort import PRECISIONS
from mpft_deploy.errors import EnvironmentLacksError, GateError, InputError
from mpft_deploy.export import search as module
from mpft_deploy.export.candidates import LatencyLimit, Sensitivity
from mpft_deploy.export.notebook import Notebook
from mpft_deploy.export.pipeline import Request
from mpft_deploy.export.search import notes_of, search
from mpft_deploy.export.search_report import pareto_front
from mpft_deploy.export.sensitivity import float_layer_ladder
from mpft_deploy.extras import how_to_install
from mpft_deploy.profile import latency


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Few samples and no pauses: what is tested does not depend on the figures."""
    monkeypatch.setattr(module, "LATENCY_SAMPLES", 30)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0)
    gc.freeze()  # before each turn garbage is collected, and a test's process holds very much
    yield
    gc.unfreeze()


@pytest.fixture
def builds(monkeypatch):
    """Names of the engines built, in order."""
    names = []

    def counted(request, *rest):
        names.append(f"{request.backend} {request.precision} {' '.join(request.float_layers)}")
        return real(request, *rest)

    real = module.make
    monkeypatch.setattr(module, "make", counted)
    return names


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(3)
    for index in range(24):
        path = folder / ("0_real" if index % 2 else "1_fake") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def request_(detector, tmp_path, pictures):
    return Request(
        detector,
        tmp_path / "out",
        backend="onnxruntime",
        precision="auto",
        images=(pictures,),
        budget=Budget.parse("flips<=60%"),  # as few images as these prove no less
        threads=1,
    )


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_winner_keeps_its_budget_and_is_the_fastest_that_does(request_):
    outcome = search(request_)
    bundle = read_bundle(request_.out)
    assert bundle.certificate.answer == "kept"
    assert bundle.certificate == outcome.winner.certificate
    assert bundle.latency == outcome.winner.timed.latency
    assert bundle.certificate.images.auc_change is not None  # the labelled layout was seen
    for one in outcome.candidates:
        assert (one.why_lost is None) == (one is outcome.winner)
        if one.certificate is not None and one.certificate.answer == "kept":
            assert one is outcome.winner
    assert {one.request.precision for one in outcome.candidates} == set(PRECISIONS)


def test_images_that_judge_are_others_than_those_that_chose(request_):
    outcome = search(request_)
    tried, judged = outcome.winner.tried.images, outcome.winner.certificate.images
    assert tried.images_sha256 != judged.images_sha256
    assert tried.images + judged.images == 24
    assert tried.left_out == {"kept to judge by": judged.images}
    assert judged.left_out == {"used to choose by": tried.images}
    # By the pixels alone: neither names nor the order decide.
    materials = module.gather(request_)
    choosing, judging = materials.halves
    assert not set(choosing.hashes) & set(judging.hashes)
    assert all(int(one[:8], 16) % 2 == 0 for one in choosing.hashes)


def test_each_further_judgement_takes_half_of_the_risk_that_is_left(request_, monkeypatch):
    asked = []
    real = module.certify

    def certify(*arguments):
        asked.append(arguments[-1])
        found = real(*arguments)
        return msgspec.structs.replace(found, answer="broken") if len(asked) < 3 else found

    monkeypatch.setattr(module, "certify", certify)
    outcome = search(request_)
    assert asked == [0.975, 0.9875, 0.99375]
    assert outcome.result.certificate.confidence == 0.99375
    assert [one.certificate is not None for one in outcome.candidates].count(True) == 3


def test_too_few_images_are_told_before_anything_is_built(request_, builds):
    with pytest.raises(InputError, match=r"half of the 24 images .* takes 368 of them at least"):
        search(replace(request_, budget=None))
    assert builds == []
    outcome = search(replace(request_, budget=None, allow_unproven=True, precision="fp32"))
    assert outcome.result.certificate.answer == "undecided"


def test_a_hopeless_candidate_is_given_up_after_one_run(request_, monkeypatch):
    """As bfloat16 is on a processor without, should nobody have known."""
    real = module.run_views

    def slow(engine, spec, crops):
        if spec.keep == slow.keep:
            time.sleep(0.2)
        return real(engine, spec, crops)

    slow.keep = f"textured:{read_detector(request_.detector).spec.tokens - 1}"
    monkeypatch.setattr(module, "run_views", slow)
    loose = replace(request_, precision="fp32", budget=Budget.parse("flips<=100%"))
    outcome = search(loose, keeps=["auto", slow.keep])
    [lost] = [one for one in outcome.candidates if one.request.keep]
    assert "times as slow as the fastest, in its first runs" in lost.why_lost
    assert lost.timed is None


def test_over_budget_is_never_written(request_, tmp_path):
    strict = replace(request_, precision="int8-static", budget=Budget.parse("logit<=0.0000001"))
    strict = replace(strict, allow_unproven=True)  # as few images as these decide nothing
    with pytest.raises(GateError, match="no candidate keeps") as error:
        search(strict)
    assert "onnxruntime int8-static" in str(error.value)
    assert "largest absolute logit difference" in str(error.value)
    assert not request_.out.exists()
    assert hidden(tmp_path) == []


def test_float_layers_are_added_until_the_budget_holds(request_, builds):
    alone = replace(request_, precision="int8-static")
    with pytest.raises(GateError):
        search(replace(alone, budget=Budget.parse("logit<=0.0000001"), allow_unproven=True))
    assert any("*.mlp.c_proj" in name for name in builds)
    worst = {}
    notes = (notes_of(request_.out) / "candidates.jsonl").read_text().splitlines()
    for line in map(json.loads, notes):
        if (
            line["key"].get("what") == "comparison"
            and "kept to judge by" in (line["value"]["images"]["left_out"])
        ):
            difference = line["value"]["images"]["logit_difference"]["max"]
            worst[tuple(line["key"]["float_layers"])] = difference
    assert min(worst, key=worst.get) != ()
    between = 0.9 * worst[()]
    logit = Budget((("logit", between),))
    outcome = search(replace(alone, budget=logit, allow_unproven=True))
    assert outcome.winner.request.float_layers
    precision = read_bundle(request_.out).info.precision
    assert precision.float_layers == outcome.winner.request.float_layers
    assert str(precision).startswith("int8-static (float: ")


def test_resumed_search_builds_the_winner_only(request_, builds):
    first = search(request_)
    assert len(builds) >= 3
    builds.clear()
    again = search(replace(request_, overwrite=True))
    assert len(builds) == 1
    # Nothing was measured anew. Of two that are as good as equally fast, which is first may change
    # as times are added, so the winner need not be the same.
    measured = [{one.name: one.timed for one in run.candidates} for run in (first, again)]
    assert measured[0] == measured[1]
    assert again.winner.certificate.answer == "kept"
    assert all(one.remembered for one in again.candidates)
    assert again.winner.p50 <= module.CLEARLY * first.winner.p50


def test_interrupted_search_goes_on(request_, builds, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module._Search, "_over_budget", interrupt)
        with pytest.raises(KeyboardInterrupt):
            search(request_)
    assert not request_.out.exists()
    assert len(builds) == len(PRECISIONS)
    said = []
    search(request_, say=said.append)
    assert not any("turn 1" in step for step in said)
    assert read_bundle(request_.out).certificate.answer == "kept"


def test_other_images_are_proven_anew(request_, pictures, builds):
    search(request_)
    notes = notes_of(request_.out) / "candidates.jsonl"
    before = notes.read_text().count('"comparison"')
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(pictures / "0_real" / "new.png")
    search(replace(request_, overwrite=True))
    assert notes.read_text().count('"comparison"') > before


def test_latency_limit_that_none_meets(request_):
    with pytest.raises(GateError, match=r"latency p90 is .* allowed 0\.0001 ms") as error:
        search(request_, limit=LatencyLimit("p90", 0.0001))
    for precision in PRECISIONS:
        assert f"onnxruntime {precision} " in str(error.value)
    assert not request_.out.exists()
    assert (notes_of(request_.out) / "search.svg").exists()


def test_missing_backend_is_named_in_the_table(request_, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    arguments = [request_.detector, request_.out, "--target", "cpu", "--precision", "fp32"]
    arguments += ["--images", *request_.images, "--budget", "flips<=60%"]
    assert run(command, "mpft-export", list(map(str, arguments))) == 0
    text = capsys.readouterr().out
    assert "openvino (fp32): cannot be used here: the package openvino is not installed" in text
    assert how_to_install("openvino") in text
    with pytest.raises(EnvironmentLacksError, match="openvino"):
        search(replace(request_, backend="openvino", overwrite=True))


def test_json(request_, pictures, capsys):
    pytest.importorskip("openvino")
    arguments = [request_.detector, request_.out, "--target", "cpu", "--images", pictures, "--json"]
    arguments += ["--budget", "flips<=60%"]
    assert run(command, "mpft-export", list(map(str, arguments))) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["certificate"]["answer"] == "kept"
    won = [one for one in result["candidates"] if one["why_lost"] is None]
    assert [(one["backend"], one["answer"]) for one in won] == [(result["backend"], "kept")]
    assert {one["backend"] for one in result["candidates"]} == {"native", "onnxruntime", "openvino"}
    drawn = ElementTree.parse(result["picture"]).getroot()
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == sum(one["comparison"] is not None for one in result["candidates"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "cpu", "--latency", "p99<=20ms"], "mpft profile --slo"),
        (["--target", "cpu", "--standalone"], "take one engine"),
        (["--precision", "auto", "--float-layers", "*.mlp.c_proj"], "goes with one --precision"),
        (["--backend", "auto", "--precision", "int8", "--latency", "p90<20"], "p90<=20ms"),
        (["--latency", "p90<=20ms"], "--target auto"),
        (["--explain"], "--target auto"),
        (["--target", "cpu", "--precision", "fp16"], "none of the backends native, onnxruntime"),
        (["--target", "cpu", "--precision", "twice"], "no latency can be told"),
    ],
)
def test_wrong_use(request_, capsys, arguments, message):
    places = [str(request_.detector), str(request_.out)]
    images = ["--images", str(request_.images[0]), "--budget", "flips<=60%"]
    assert run(command, "mpft-export", [*places, *images, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not request_.out.exists()


def test_a_search_needs_images(request_, capsys):
    places = [str(request_.detector), str(request_.out)]
    assert run(command, "mpft-export", [*places, "--target", "cpu"]) == 2
    assert "add --images FOLDER" in capsys.readouterr().err


def test_notebook_passes_over_what_was_cut_off(tmp_path):
    path = tmp_path / "notes" / "lines.jsonl"
    Notebook(path).put({"a": 1}, Sensitivity(mean_error=0.5))
    Notebook(path).put({"a": 1}, Sensitivity(mean_error=0.25))
    with path.open("ab") as file:
        file.write(b'{"key": {"a": 2}, "val')
    notebook = Notebook(path)
    notebook.put({"a": 3}, Sensitivity(mean_error=1.0))
    for key, expected in ((1, 0.25), (2, None), (3, 1.0)):
        found = Notebook(path).get({"a": key}, Sensitivity)
        assert (found and found.mean_error) == expected


def test_ladder_takes_what_costs_most_first():
    costs = {"mlp.c_proj": 1.0, "mlp.c_fc": 0.1, "attention.[qk]*": 0.3, "attention.out_proj": 0.2}

    def error(layers):
        (pattern,) = layers
        where, _, layer = pattern.partition(".")
        share = 1.0 if where == "*" else {"block4": 0.9, "block1": 0.5}.get(where, 0.01)
        return 2 - share * costs[layer]

    assert float_layer_ladder(error, 6) == [
        ("block4.mlp.c_proj",),
        ("block4.mlp.c_proj", "block1.mlp.c_proj", "block0.mlp.c_proj"),
        ("*.mlp.c_proj",),
        ("*.mlp.c_proj", "*.attention.[qk]*"),
        ("*.mlp.c_proj", "*.attention.[qk]*", "*.attention.out_proj"),
    ]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_pareto_front_is_what_nothing_dominates(points):
    def dominated(point):
        return any(a <= point[0] and b <= point[1] and (a, b) != point for a, b in points)

    assert pareto_front(points) == sorted({point for point in points if not dominated(point)})


def test_fewer_cells_are_tried_and_judged_by_the_detectors_own_rule(request_, detector):
    own = read_detector(detector).spec
    fewer = str(own.tokens - 1)
    loose = replace(request_, precision="fp32", budget=Budget.parse("flips<=100%"))
    outcome = search(loose, keeps=["auto", fewer])
    rules = {one.request.keep for one in outcome.candidates}
    assert rules == {None, f"{own.keep_rule.kind}:{fewer}"}
    strict = replace(loose, budget=Budget.parse("logit<=0.00001"), overwrite=True)
    strict = replace(strict, allow_unproven=True)  # as few images as these decide nothing
    outcome = search(strict, keeps=[own.keep, fewer])
    assert outcome.winner.request.keep is None
    [lost] = [one for one in outcome.candidates if one.request.keep]
    assert "even in float32: largest absolute logit difference" in lost.why_lost or (
        "clearly slower" in lost.why_lost or "slower than" in lost.why_lost
    )


def test_one_engine_of_fewer_cells_says_what_it_is(detector, tmp_path, pictures, capsys):
    own = read_detector(detector).spec
    fewer = own.tokens - 1
    arguments = [str(detector), str(tmp_path / "out"), "--keep", str(fewer), "--json"]
    judged = [*arguments, "--images", str(pictures)]
    assert run(command, "mpft-export", judged) == 1  # float32 at fewer cells is no float32
    assert run(command, "mpft-export", [*judged, "--budget", "flips<=100%"]) == 0
    bundle = read_bundle(tmp_path / "out")
    assert bundle.spec.keep == f"{own.keep_rule.kind}:{fewer}"
    assert bundle.info.sources["detector_keep"] == own.keep
    assert run(verify, "verify", [str(tmp_path / "out")]) == 0
    assert run(command, "mpft-export", [*arguments, "--overwrite", "--keep", "9999"]) == 2
    capsys.readouterr()
    assert run(command, "mpft-export", [*arguments, "--overwrite", "--keep", "3,4"]) == 2
    assert "--target auto" in capsys.readouterr().out
