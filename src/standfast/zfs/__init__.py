"""The vocabulary of ZFS: names, listings, send streams."""
