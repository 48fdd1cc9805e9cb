//! Shared by the agent and the landing service.
