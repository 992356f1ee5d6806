"""The primitives on each backend, and which backend serves one."""
