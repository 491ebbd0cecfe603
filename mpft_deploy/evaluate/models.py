"""What is evaluated: anything that gives logits of views. Bundles here, PyTorch in `detector`."""

from __future__ import annotations

from typing import Protocol

from mpft_deploy.bundle import Bundle
from mpft_deploy.engine import load_engine, wide_of
from mpft_deploy.engine.certificate import run_views
from mpft_deploy.files import display
from mpft_deploy.images import U8
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32


class Model(Protocol):
    """A detector under evaluation.

    Attributes:
        name: for tables.
        identity: another one for whatever could give other logits.
        spec: of which crop size, cells, seed and calibration are read.
        keeps: keep rules that logits are given under; the calibration belongs to `spec.keep`.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def spec(self) -> DetectorSpec: ...

    @property
    def keeps(self) -> list[str]: ...

    def logits(self, crops: U8) -> F32:
        """Views u8 [n, S, S, 3] → logits f32 [rules, n]."""
        ...


class BundleModel:
    """The engine of a verified bundle, at its one keep rule, one view at a time.

    Of one that judges twice, the second, which is the one that verdicts are of.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        info = bundle.info
        self.name = f"{display(bundle.path.resolve().name)} ({info.backend} {info.precision})"
        self.identity = f"bundle {bundle.seal}"
        self.spec = bundle.spec
        self.keeps = [self.spec.keep]
        engine = load_engine(bundle, threads=threads)
        self._engine = wide_of(engine) if info.precision.again else engine

    def logits(self, crops: U8) -> F32:
        """Views u8 [n, S, S, 3] → logits f32 [1, n]."""
        return run_views(self._engine, self.spec, crops)[None]
