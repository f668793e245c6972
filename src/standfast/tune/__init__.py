"""Judge ZFS and kernel memory settings before the reboot.

Facts are read (`facts`), judged (`plan`), improved (`recommend`), shown (`picture`,
`sweep`) and tried (`trial`). The arithmetic lives in `rules`, one file a rule.
"""
