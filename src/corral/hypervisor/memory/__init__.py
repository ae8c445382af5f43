"""How much memory a guest has, and from where: balloon, memory devices, NUMA."""
