"""Private peers for tests and benchmarks: a libvirtd and a Corral daemon that touch nothing of the host's own."""
