"""Volumes as files: what a directory holds, how image files come to be, grow, are copied, wiped and removed."""
