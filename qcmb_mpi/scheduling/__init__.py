"""Who computes what, where and when: decisions only, as functions of (state, event, now)."""
