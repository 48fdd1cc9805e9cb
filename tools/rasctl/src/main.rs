//! Offline decoding and control of rasd.

fn main() {}
