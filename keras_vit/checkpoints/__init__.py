"""Checkpoint formats as tables, one engine that reads and writes them, and where the files are."""
