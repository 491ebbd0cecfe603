"""The encoder as integers: one network, the same bits on every processor."""
