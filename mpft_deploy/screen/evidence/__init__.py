"""Evidence: what a source sent and what was judged of it, kept for seconds, packed, and verified.

reader → Ring ┐
              ├→ Recording → package (ZIP) → verify
engine → Looks┘
"""
