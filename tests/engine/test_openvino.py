"""OpenVINO as a backend, against the independent reference."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import reference

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import get_backend, load_engine, openvino
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.kernels import texture_patchify

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def case():
    """Graph, patches of 5 views, and their logits."""
    spec = reference.tiny_spec()
    weights = reference.random_weights(spec)
    views = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3), np.uint8)
    cut = texture_patchify(views, spec.patch, spec.keep_rule)
    return build_graph(spec, weights), cut, reference.logits(spec, weights, cut)


def load(graph, threads=1):
    return get_backend("openvino").load(serialise(graph), threads=threads)


def test_any_batch_gives_the_reference_logits(case):
    graph, cut, expected = case
    engine = load(graph)
    for batch in (5, 1, 3):
        logits = engine.run(cut.patches[:batch], cut.positions[:batch])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:batch], atol=2e-5)


def test_precision_comes_from_the_graph(case):
    graph, cut, expected = case
    exact = load(graph).run(cut.patches, cut.positions)
    rounded = load(apply_precision(graph, "bf16")).run(cut.patches, cut.positions)
    assert np.abs(exact - expected).max() < 2e-5
    assert 1e-4 < np.abs(rounded - expected).mean() < 0.1


def test_logits_are_the_callers_own(case):
    graph, cut, _ = case
    engine = load(graph)
    first = engine.run(cut.patches[:1], cut.positions[:1])
    before = first.copy()
    engine.run(cut.patches[1:2], cut.positions[1:2])
    np.testing.assert_array_equal(first, before)


def test_runs_from_several_threads(case):
    graph, cut, expected = case
    engine = load(graph)

    def one(index):
        return engine.run(cut.patches[index : index + 1], cut.positions[index : index + 1])[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, [index % 5 for index in range(100)]))
    np.testing.assert_allclose(found, np.tile(expected, 20), atol=2e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_respected(case, threads):
    engine = load(case[0], threads)
    assert engine._model.get_property("INFERENCE_NUM_THREADS") == threads


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8-static", "int8-static+bf16"])
def test_bundle_of_each_precision(detector, tmp_path, precision):
    out = tmp_path / "bundle"
    request = Request(detector, out, backend="openvino", precision=precision)
    if openvino.why_not_precision(precision_of(precision)):
        with pytest.raises(EnvironmentLacksError, match="no instructions for bfloat16"):
            export(request)
        assert not out.exists()
        return
    export(request)
    bundle = read_bundle(out)
    assert bundle.certificate.smoke_test.logit_difference["mean"] < 0.2
    assert bundle.info.versions["openvino"] == get_backend("openvino").versions()["openvino"]
    load_engine(bundle)


@pytest.mark.parametrize("precision", ["bf16", "int8-static+bf16"])
def test_bfloat16_is_refused_without_its_instructions(detector, tmp_path, precision, monkeypatch):
    monkeypatch.setattr(openvino, "capabilities", lambda: ("FP32", "INT8", "BIN"))
    request = Request(detector, tmp_path / "out", backend="openvino", precision=precision)
    with pytest.raises(EnvironmentLacksError, match=f"precision {re.escape(precision)} here: this"):
        export(request)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(openvino, "capabilities", lambda: ("FP32", "BF16", "INT8", "BIN"))
    export(request)


def test_capabilities_are_those_of_the_processor():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert ("BF16" in openvino.capabilities()) == ("avx512_bf16" in flags or "amx_bf16" in flags)


def test_what_it_does_not_take_is_refused(detector, tmp_path):
    with pytest.raises(UsageError, match="does not take precision int8: choose fp32, bf16"):
        export(Request(detector, tmp_path / "out", backend="openvino", precision="int8"))


def test_no_model_is_an_input_error():
    with pytest.raises(InputError, match="OpenVINO cannot load"):
        get_backend("openvino").load(b"no model", threads=1)


def test_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EnvironmentLacksError, match=r"\[openvino\]"):
        get_backend("openvino")


def test_marks_its_copies_and_gives_the_same_logits(case):
    graph, cut, _ = case
    engine = load(graph)
    for batch in (5, 2):
        marks = []
        patches, positions = cut.patches[:batch], cut.positions[:batch]
        found = engine.run_marked(patches, positions, lambda marks=marks: marks.append(1))
        assert marks == [1, 1]
        np.testing.assert_array_equal(found, engine.run(patches, positions))
