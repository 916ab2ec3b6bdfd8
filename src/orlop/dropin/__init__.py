"""`orlop-storage`: the command line of `containers-storage`, to the byte. It decides nothing."""
