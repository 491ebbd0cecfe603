"""Detectors of others, as detector folders: CLIP's image tower with a linear head.

What an import reads are tensors, by their names; see `towers` for those of a tower, `merge` for
adapters that are sums, and `heads`. Everything is folded in float64 and rounded to float32 once.
"""
