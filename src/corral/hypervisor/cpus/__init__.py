"""vCPUs and the CPU a guest gets: models compared, vCPUs plugged, pinned, and counted by the guest."""
