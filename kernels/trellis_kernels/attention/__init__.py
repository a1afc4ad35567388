"""One op: see op.py."""
