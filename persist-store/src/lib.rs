//! The durable list of retired pages.
