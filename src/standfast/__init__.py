"""Tools for the person who answers for a few ZFS and HAProxy machines alone."""

__version__ = "0.1.0"
