"""What the host's side of a network card is made of: taps, macvtaps, bridges, limits, passt. Linux's netlink."""
