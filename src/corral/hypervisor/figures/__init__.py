"""What domains use and do, in figures: bulk statistics, KVM's own, `perf`."""
