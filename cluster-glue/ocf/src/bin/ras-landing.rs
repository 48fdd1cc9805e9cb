//! ras-landing.

fn main() {}
