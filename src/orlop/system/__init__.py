"""The one room that talks to the kernel: locks, files, mounts, rooted paths. It knows no layers."""
