"""From a detector to a certified engine."""
