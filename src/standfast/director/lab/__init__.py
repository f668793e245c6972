"""The whole farm in network namespaces of one machine, for looking and measuring."""
