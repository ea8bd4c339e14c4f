"""Where calculations happen: engines, slots, agents and the executors built from them."""
