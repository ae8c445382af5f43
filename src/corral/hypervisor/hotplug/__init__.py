"""Devices changed while a machine runs: plug, unplug, update, and what a dead daemon left half done."""
