//! check, tidy, test, demo, lab, bench.

fn main() {}
