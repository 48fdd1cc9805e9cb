//! Node health and evacuation: HaEngine and its engines.
