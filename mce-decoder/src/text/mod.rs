//! Text about errors: kernel logs, mcelog, EDAC's counters.
