"""Run a bundle: one file a backend, behind one registry."""
