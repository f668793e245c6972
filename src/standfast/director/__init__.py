"""The network layer before a farm of HAProxy: probe, decide, steer, elect."""
