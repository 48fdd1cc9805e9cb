//! The host daemon: one error, one walk.

fn main() {}
