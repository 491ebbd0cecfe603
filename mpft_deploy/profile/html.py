"""The HTML report: one file that needs nothing else and asks nothing of any network."""

from __future__ import annotations

from markupsafe import Markup

from mpft_deploy import __version__
from mpft_deploy.pages import templates_beside
from mpft_deploy.profile import charts, wording
from mpft_deploy.profile.flame import icicle
from mpft_deploy.profile.measure import STEADY_RULE
from mpft_deploy.profile.records import Profile, Run


def render_html(profile: Profile) -> str:
    """The page."""
    environment = templates_beside(__file__)
    environment.filters["number"] = wording.number
    layers = profile.layers
    return environment.get_template("report.html").render(
        version=__version__,
        profile=profile,
        main=profile.runs[0],
        answer=answer(profile),
        runs=[_run(run) for run in profile.runs],
        environment=wording.environment_rows(profile),
        unknown=profile.environment.unknown,
        harness=wording.harness_line(profile),
        steady_rule=STEADY_RULE,
        layers=layers,
        bounds=wording.bounds(layers) if layers else [],
        layer_rows=wording.layer_rows(layers) if layers else [],
        icicle=Markup(icicle(layers)) if layers else "",
        roofline=Markup(charts.roofline(layers)) if layers and layers.roof else "",
    )


def answer(profile: Profile) -> tuple[str, str]:
    """The headline, in a kind (pass, fail, undecided or plain) and a sentence."""
    verdicts = [gate.verdict for gate in profile.gates]
    run = profile.runs[0]
    median = run.latency_ms["p50"].value
    for kind, text, rest in (
        ("fail", "The gate failed", "failed"),
        ("undecided", "The gate could not be decided", "could not be decided"),
    ):
        count = sum(verdict == kind for verdict in verdicts)
        if count:
            return kind, text if len(verdicts) == 1 else f"{count} of {len(verdicts)} gates {rest}"
    if verdicts:
        return "pass", "All gates passed" if len(verdicts) > 1 else "The gate passed"
    if run.state == "disturbed":
        return "undecided", "The machine was busy: measure again when it is quiet"
    if median is None:
        return "undecided", "Too unstable to report"
    return "plain", f"Half of all queries take {wording.number(median)} ms or less"


def _run(run: Run) -> dict[str, object]:
    """What the template shows of a run."""
    return {
        "run": run,
        "title": wording.title(run),
        "notes": wording.run_notes(run),
        "throughput": wording.throughput(run),
        "energy": wording.energy(run),
        "figures": [
            (name, *wording.estimate_cells(estimate)) for name, estimate in run.latency_ms.items()
        ],
        "distribution": Markup(charts.distribution(run)),
        "timeline": Markup(charts.timeline(run)),
        "waterfall": Markup(charts.waterfall(run)),
        "disturbed": sum(bool(block.disturbed) for block in run.blocks),
    }
