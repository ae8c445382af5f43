"""Corral beside libvirtd and bare QEMU on one machine in one run: `make bench`."""
