"""Where the installed commands begin: with signals in hand before anything is imported."""

from __future__ import annotations

from mpft_deploy.cli import signals


def mpft() -> None:
    """`mpft`."""
    signals.end_at_once()
    from mpft_deploy.cli.main import main

    main()


def mpft_export() -> None:
    """`mpft-export`."""
    signals.end_at_once()
    from mpft_deploy.cli.main import export_main

    export_main()
