from typing import Any

import numpy.typing as npt

from mpft_deploy.kernels.encoder.oracle import F32, I32, U8

DEFINITION: str

def why_not(name: str) -> str | None: ...

class Encoder:
    def __init__(
        self,
        name: str,
        sizes: list[int],
        quick_gelu: bool,
        arrays: list[npt.NDArray[Any]],
        threads: int,
    ) -> None: ...
    def logits(self, patches: U8, positions: I32, out: F32) -> None: ...
