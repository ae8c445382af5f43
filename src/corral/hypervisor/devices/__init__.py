"""What a machine's devices need on this host beside QEMU: cables, helper programs, the host's own devices."""
