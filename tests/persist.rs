//! The list survives: crash points, damage, a second writer.
