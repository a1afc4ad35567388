"""Tests that mirror the tree of the code; `python -m tests` runs them after formatting, lint and types."""
