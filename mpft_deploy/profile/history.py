"""Results of a folder, in the order in which they were measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpft_deploy.errors import InputError
from mpft_deploy.files import display
from mpft_deploy.profile.records import Profile, read_profile
from mpft_deploy.spec import Record


@dataclass(frozen=True)
class Entry:
    """A result and its file."""

    path: Path
    profile: Profile


def read_history(folder: Path) -> tuple[list[Entry], list[str]]:
    """The results of a folder, oldest first, and what is wrong with each file that is none.

    Other JSON files, those that are no result of `mpft profile`, are passed over silently.

    Raises:
        InputError: no folder, or one without any result.
    """
    if not folder.is_dir():
        raise InputError(
            f"{display(folder)} is not a folder; name one with results of mpft profile"
        )
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    entries = [one for one in found if isinstance(one, Entry)]
    failures = [str(one) for one in found if isinstance(one, InputError)]
    if not entries:
        reason = f" ({failures[0]})" if failures else ""
        raise InputError(
            f"{display(folder)} holds no result of mpft profile{reason}; write one with "
            "mpft profile BUNDLE --out FILE.json"
        )
    return sorted(entries, key=lambda entry: entry.profile.created), failures


def _read(path: Path) -> Entry | InputError | None:
    """A result, what is wrong with it, or None for a file that is something else."""
    try:
        return Entry(path, read_profile(path))
    except InputError as error:
        return None if "is no result" in str(error) else error


class Row(Record, frozen=True):
    """One run of a result; `change` of its median against the one before at the same setting."""

    created: str
    file: str
    bundle: str
    seal: str
    precision: str
    commit: str
    device: str
    setting: str
    state: str
    p50_ms: float | None
    p99_ms: float | None
    change: float | None


def rows(entries: list[Entry]) -> list[Row]:
    """Every run of every result, in order."""
    last: dict[tuple[str, ...], float] = {}
    found = []
    for entry in entries:
        profile = entry.profile
        for run in profile.runs:
            setting = f"{run.scenario}, batch {run.batch}, threads {run.threads}"
            device = profile.environment.device.processor
            key = (device, setting, ",".join(stage.name for stage in run.stages))
            median = run.latency_ms["p50"].value
            before = last.get(key)
            if median is not None and run.state == "quiet":
                last[key] = median
            found.append(
                Row(
                    created=profile.created,
                    file=display(entry.path),
                    bundle=profile.subject.name,
                    seal=profile.subject.seal,
                    precision=profile.subject.precision,
                    commit=profile.environment.commit,
                    device=device,
                    setting=setting,
                    state=run.state,
                    p50_ms=median,
                    p99_ms=run.latency_ms["p99"].value,
                    change=median / before - 1 if median is not None and before else None,
                )
            )
    return found
