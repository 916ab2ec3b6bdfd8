"""`orlop`, the command for people; see `main`."""
