//! A guest moves house with poisoned pages.
