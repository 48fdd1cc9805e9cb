//! Input to records: golden files and hostile bytes.
