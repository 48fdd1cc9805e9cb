//! One error, one walk: the daemon end to end, killed at every step.
