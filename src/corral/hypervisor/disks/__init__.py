"""Disks of running machines: who has which image open, media, sizes, limits, I/O threads."""
