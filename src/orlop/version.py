"""The version, alone in its file: `orlop-storage version` reads nothing else."""

__version__ = "0.1.0"
