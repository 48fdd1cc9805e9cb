//! Machine checks, CPER and kernel trace events to ErrorRecord: no_std, no panic, bounded.
