//! QMP: messages, a client with deadlines, server plumbing with limits.
