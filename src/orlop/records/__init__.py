"""The JSON files as locked tables, big data, mounts, what is incomplete and what was set aside."""
