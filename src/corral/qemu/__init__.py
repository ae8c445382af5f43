"""One virtual machine as one QEMU process: what a binary can do, the plan, the process, the monitor, the guest agent."""
