from mpft_deploy.kernels.texture_patchify.oracle import I32, U8

def why_not(name: str) -> str | None: ...
def run(
    name: str,
    images: U8,
    patch: int,
    keep: str,
    seed: int,
    patches: U8,
    positions: I32,
    scores: I32,
) -> None: ...
