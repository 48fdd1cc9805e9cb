//! A guest loses memory and lives: poison, #MC, unplug, refusal.
