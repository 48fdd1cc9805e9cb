//! One bank of each generation, worked out by hand from the documents.
