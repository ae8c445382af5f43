"""One virtual machine as one QEMU process: what a binary can do, plan, process, monitor, guest agent."""
