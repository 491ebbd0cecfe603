"""From images and frames to verdicts."""
