"""Benchmarks by the names of their folders: which sets they have, and what is held against what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as its authors lay it out.

    Attributes:
        classes: its class folders, in lower case: real, generated; "" where it has none.
        sets: title of a set → the names of its folder, as `plain` has them.
        reals: folder of real images alone → the sets of generated images alone that are held
            against them.
    """

    classes: tuple[str, str]
    sets: dict[str, tuple[str, ...]]
    reals: dict[str, tuple[str, ...]]


_SYNTHBUSTER: dict[str, tuple[str, ...]] = {
    "DALL-E 2": ("dalle2",),
    "DALL-E 3": ("dalle3",),
    "Firefly": ("firefly",),
    "GLIDE": ("glide",),
    "Midjourney v5": ("midjourneyv5",),
    "SD1.3": ("stablediffusion13",),
    "SD1.4": ("stablediffusion14",),
    "SD2": ("stablediffusion2",),
    "SDXL": ("stablediffusionxl",),
}

BENCHMARKS = {
    # Zhu et al., arXiv 2306.08571
    "GenImage": Benchmark(
        ("nature", "ai"),
        {
            "Midjourney": ("midjourney", "imagenetmidjourney"),
            "SD1.4": ("sd14", "sdv14", "stablediffusionv14", "imagenetai0419sdv4"),
            "SD1.5": ("sd15", "sdv15", "stablediffusionv15", "imagenetai0424sdv5"),
            "ADM": ("adm", "imagenetai0508adm"),
            "GLIDE": ("glide", "imagenetglide"),
            "Wukong": ("wukong", "imagenetai0424wukong"),
            "VQDM": ("vqdm", "imagenetai0419vqdm"),
            "BigGAN": ("biggan", "imagenetai0419biggan"),
        },
        {},
    ),
    # Ojha et al., arXiv 2302.10174; its first eleven are of Wang et al., arXiv 1912.11035
    "UniversalFakeDetect": Benchmark(
        ("0_real", "1_fake"),
        {
            "ProGAN": ("progan",),
            "CycleGAN": ("cyclegan",),
            "BigGAN": ("biggan",),
            "StyleGAN": ("stylegan",),
            "GauGAN": ("gaugan",),
            "StarGAN": ("stargan",),
            "Deepfakes": ("deepfake", "deepfakes"),
            "SITD": ("sitd", "seeingdark"),
            "SAN": ("san",),
            "CRN": ("crn",),
            "IMLE": ("imle",),
            "Guided": ("guided",),
            "LDM 200": ("ldm200",),
            "LDM 200 CFG": ("ldm200cfg",),
            "LDM 100": ("ldm100",),
            "GLIDE 100-27": ("glide10027",),
            "GLIDE 50-27": ("glide5027",),
            "GLIDE 100-10": ("glide10010",),
            "DALL-E": ("dalle",),
        },
        {
            "imagenet": ("guided",),
            "laion": (
                *("ldm200", "ldm200cfg", "ldm100", "glide10027", "glide5027", "glide10010"),
                "dalle",
            ),
        },
    ),
    # Bammey, DOI 10.1109/OJSP.2023.3337714: folders of generated images alone, held against real
    # ones of RAISE (Dang-Nguyen et al., DOI 10.1145/2713168.2713194), which are had from elsewhere.
    "Synthbuster": Benchmark(
        ("", ""),
        _SYNTHBUSTER,
        {
            name: tuple(alias for names in _SYNTHBUSTER.values() for alias in names)
            for name in ("raise", "raise1k", "realraise", "realraise1k")
        },
    ),
}

KNOWN_SETS = frozenset(
    {
        *(alias for one in BENCHMARKS.values() for names in one.sets.values() for alias in names),
        *("stylegan2", "stylegan3", "whichfaceisreal"),
    }
)
KNOWN_REALS = frozenset(name for one in BENCHMARKS.values() for name in one.reals)


def plain(name: str) -> str:
    """A folder's name in lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def benchmark_of(sets: Iterable[tuple[str, str, int]]) -> str:
    """The benchmark that some sets are of, "" if none.

    Each set is one of its sets, or its real images alone, and lies in its class folders.

    Args:
        sets: set, name of the class folder in lower case, label.
    """
    there = set(sets)
    for name, one in BENCHMARKS.items():
        known = {alias for names in one.sets.values() for alias in names} | one.reals.keys()
        if there and all(
            plain(who) in known and folder == one.classes[label] for who, folder, label in there
        ):
            return name
    return ""


def paired_reals(sets: Iterable[tuple[str, str, int]]) -> dict[str, str]:
    """Set of generated images alone → the set of real images alone that it is held against.

    By the rules of BENCHMARKS, and only among their class folders.

    Args:
        sets: set, name of the class folder in lower case, label.
    """
    there = set(sets)
    out: dict[str, str] = {}
    for one in BENCHMARKS.values():
        own = {(who, label) for who, folder, label in there if folder == one.classes[label]}
        alone = [(who, label) for who, label in sorted(own) if (who, 1 - label) not in own]
        for real, _ in [item for item in alone if item[1] == 0]:
            wanted = one.reals.get(plain(real), ())
            out |= {who: real for who, label in alone if label == 1 and plain(who) in wanted}
    return out
