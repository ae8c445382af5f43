"""Dealing with the guest inside: its agent, keys, consoles, sleep."""
