//! vm.

fn main() {}
