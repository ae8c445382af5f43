"""Screens: ports, certificates, passwords, connections to them."""
