"""What this machine is and can do: KVM, CPU, topology, memory, firmware."""
