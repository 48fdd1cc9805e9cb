//! Node health and the engines that act on it.
