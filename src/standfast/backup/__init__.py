"""Off-site backups of ZFS snapshots in vaults that nobody has to trust."""
