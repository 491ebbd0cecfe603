"""Folders of labelled images as the field lays them out: class, split and set by folder names.

What is not understood is an error that lists what was found: an image that is left out in silence
makes every figure one of other images than was meant.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mpft_deploy.benchmarks import BENCHMARKS, KNOWN_REALS, KNOWN_SETS, Benchmark, plain
from mpft_deploy.errors import InputError
from mpft_deploy.files import display
from mpft_deploy.finding import find_images, passed_over

CLASS_FOLDERS = {
    **dict.fromkeys(("0_real", "real", "nature", "0"), 0),
    **dict.fromkeys(("1_fake", "fake", "ai", "generated", "1"), 1),
    **dict.fromkeys(("full_synthetic", "tampered"), 1),
}
"""Name in lower case → label. The last two are So-Fake's (arXiv 2505.18660), which holds what was
tampered with against real images too."""

KINDS = frozenset(("full_synthetic", "tampered"))
"""Class folders that say what kind of generated images they hold."""

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

EXPECTED = "folders such as 0_real and 1_fake, real and fake, or nature and ai"
OR_CSV = "a CSV with the columns path,label, Parquet, .tar shards, or a folder of save_to_disk"

LISTED = 8
"""Folders that an error names."""


class Place(NamedTuple):
    """What the folders above an image say.

    label: None where none of them is a class, or both are. parts: all of them. above: those above
    the class folder. below: the first below it that is no split, or "".
    """

    path: Path
    label: int | None
    folder: str
    split: str | None
    parts: tuple[str, ...]
    above: tuple[str, ...]
    below: str


class Found(NamedTuple):
    """An image of a folder; folder: its class folder, in lower case. source: all folders above."""

    path: Path
    label: int
    folder: str
    set: str
    generator: str
    split: str | None
    source: str


def read_folder(
    root: Path, *, split: str | None = None, plain_is_real: bool = False
) -> list[Found]:
    """The labelled images under a folder, in the order of their names.

    The class folder above an image gives its label and a folder such as `train` its split. Its set
    is, above the class folder, the one that a benchmark knows by name, or one beside such a folder;
    else the first that is no split; else the nearest one from `root` up. What lies below the class
    folder of generated images is their generator.

    Args:
        split: complain of nothing that is stated to be of another split.
        plain_is_real: a folder without any class folder holds real images.

    Raises:
        InputError: folders whose class is not understood or contradicts itself, class folders
            without images, links to folders (which are not followed), or no image at all.
    """
    if not root.is_dir():
        raise InputError(f"{display(root)}: no such folder or .csv file")
    others: Counter[str] = Counter()
    images = find_images(root, others)
    places = [_place(path, path.relative_to(root).parts[:-1]) for path in images]
    if not any(place.folder for place in places):
        own = root.resolve().name
        if own.lower() in CLASS_FOLDERS:
            places = [_place(place.path, (own, *place.parts)) for place in places]
        elif classless := _without_classes(places):
            places = classless
        elif plain_is_real:
            _refuse_doubtful(root, places)
            places = [place._replace(label=0, above=()) for place in places]
    asked = [place for place in places if split is None or place.split in (None, split)]
    also = f". {passed_over(others)}" if others else ""
    _refuse_unclear(root, asked, split, also)
    if not places:
        raise InputError(
            f"{display(root)} holds no labelled images; expected {EXPECTED}, {OR_CSV}{also}"
        )
    wrappers = _wrappers(places)
    out = []
    for place in places:
        if place.label is not None:
            name = _set_name(root, place.above, wrappers)
            kind = place.folder if place.folder.lower() in KINDS else name
            generator = (place.below or kind) if place.label else ""
            source = root.resolve().name / place.path.parent.relative_to(root)
            out.append(
                Found(
                    place.path,
                    place.label,
                    place.folder.lower(),
                    display(name),
                    display(generator),
                    place.split,
                    display(source),
                )
            )
    return out


def listing(counts: Counter[str]) -> str:
    """Folders with their images, the fullest first, at most LISTED of them."""
    shown = [f"{display(name)} ({count})" for name, count in counts.most_common(LISTED)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more folders" if more else "")


def _place(path: Path, parts: Sequence[str]) -> Place:
    classes = [at for at, name in enumerate(parts) if name.lower() in CLASS_FOLDERS]
    splits = [SPLIT_FOLDERS[name.lower()] for name in parts if name.lower() in SPLIT_FOLDERS]
    # Content that is called like a class, such as ai/nature, must not turn the label.
    labels = {CLASS_FOLDERS[parts[at].lower()] for at in classes}
    at = classes[0] if classes else len(parts)
    below = [name for name in parts[at:] if _is_content(name)]
    return Place(
        path,
        labels.pop() if len(labels) == 1 else None,
        parts[at] if classes else "",
        splits[-1] if splits else None,
        tuple(parts),
        tuple(parts[:at]),
        below[0] if below else "",
    )


def _without_classes(places: Sequence[Place]) -> list[Place]:
    """The places by the names of a benchmark without class folders, if there are two or more."""
    for one in BENCHMARKS.values():
        made = {alias for names in one.sets.values() for alias in names}
        named = [[part for part in map(plain, place.parts) if part in made] for place in places]
        if one.classes == ("", "") and len({names[0] for names in named if names}) > 1:
            return [_by_name(place, one, made) for place in places]
    return []


def _by_name(place: Place, benchmark: Benchmark, made: set[str]) -> Place:
    """A place whose folder is a set, or its real images, by its name; the same if neither is."""
    for part in place.parts:
        if plain(part) in made:
            return place._replace(label=1, above=(part,))
        if plain(part) in benchmark.reals:
            return place._replace(label=0, above=(part,))
    return place


def _is_content(name: str) -> bool:
    return name.lower() not in CLASS_FOLDERS and name.lower() not in SPLIT_FOLDERS


def _wrappers(places: Sequence[Place]) -> set[tuple[str, ...]]:
    """The folders in which sets lie that a benchmark knows by name."""
    out = set()
    for place in places:
        for names in (KNOWN_SETS, KNOWN_REALS):
            known = [at for at, name in enumerate(place.above) if plain(name) in names]
            if known:
                out.add(place.above[: known[0]])
                break
    return out


def _set_name(root: Path, above: Sequence[str], wrappers: set[tuple[str, ...]]) -> str:
    for depth in range(len(above) - 1, -1, -1):
        if tuple(above[:depth]) in wrappers and _is_content(above[depth]):
            return above[depth]
    own = root.resolve()
    if not wrappers and len(own.name) > 3 and plain(own.name) in KNOWN_SETS:
        return own.name  # what lies below are classes of content
    return next((name for name in (*above, *reversed(own.parts)) if _is_content(name)), own.name)


def _refuse_unclear(root: Path, places: Sequence[Place], split: str | None, also: str) -> None:
    """An InputError that lists what is not understood under a folder, if anything, then `also`."""
    where = display(root)
    unknown: Counter[str] = Counter()
    contradicting: Counter[str] = Counter()
    for place in places:
        if place.label is None:
            folder = "/".join(place.parts) or "the folder itself"
            (contradicting if place.folder else unknown)[folder] += 1
    empty, links = _folders_without(root, places, split)
    if unknown and sum(unknown.values()) == len(places):
        raise InputError(
            f"{where} holds no labelled images, only {listing(unknown)}; "
            f"expected {EXPECTED}, {OR_CSV}{_hint(unknown)}{also}"
        )
    told = []
    if contradicting:
        told.append(
            f"folders of both classes lie above the images of {listing(contradicting)}: rename "
            "what does not mean a class"
        )
    if unknown:
        known = Counter(place.folder for place in places if place.label is not None)
        told.append(
            f"beside {listing(known)} there are images in no class folder: {listing(unknown)}"
            f"{_hint(unknown)}. Rename them to {EXPECTED}, move them away, or give files and "
            f"labels in a CSV with the columns path,label"
        )
    if empty:
        told.append(f"class folders without an image that can be read: {', '.join(empty[:LISTED])}")
    if links:
        told.append(
            f"links to folders, which are not followed: {', '.join(links[:LISTED])}; "
            "name what they point to"
        )
    if told:
        raise InputError(f"{where} is not understood: " + "; ".join(told) + also)


def _folders_without(
    root: Path, places: Sequence[Place], split: str | None
) -> tuple[list[str], list[str]]:
    """Class folders that hold no image, and links to folders, under a folder."""
    filled = {place.parts[:depth] for place in places for depth in range(len(place.parts) + 1)}
    empty, links = [], []
    for here, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            parts = Path(here, name).relative_to(root).parts
            stated = _place(root, parts).split
            if split is not None and stated not in (None, split):
                continue
            if Path(here, name).is_symlink():
                links.append(display("/".join(parts)))
            elif name.lower() in CLASS_FOLDERS and parts not in filled:
                empty.append(display("/".join(parts)))
    return empty, links


def _refuse_doubtful(root: Path, places: Sequence[Place]) -> None:
    """An InputError if a folder of real images has folders that sound like classes."""
    doubtful = Counter(
        "/".join(place.parts) for place in places if any(map(_sounds_like, place.parts))
    )
    if doubtful:
        raise InputError(
            f"{display(root)} has no class folders, so all its images would be taken to be real, "
            f"but these sound like classes: {listing(doubtful)}. Rename them ({EXPECTED}), or name "
            "the folders of real images alone"
        )


def _sounds_like(name: str) -> str:
    """The class folder that a name may be meant as, "" if none."""
    lowered = name.lower()
    words = set(re.split(r"[^a-z]+", lowered))
    if words & {"fake", "fakes", "ai", "generated", "synthetic", "tampered", "manipulated"}:
        return "1_fake"
    if words & {"real", "reals"}:
        return "0_real"
    long = [known for known in CLASS_FOLDERS if len(known) > 2]
    return next(iter(difflib.get_close_matches(lowered, long, 1, 0.8)), "")


def _hint(unknown: Counter[str]) -> str:
    """What a misspelt folder may be meant as."""
    for name in unknown:
        for part in reversed(name.split("/")):
            close = difflib.get_close_matches(part.lower(), CLASS_FOLDERS, 1, 0.8)
            if close:
                return f" (is {display(part)} meant to be {close[0]}?)"
    return ""
