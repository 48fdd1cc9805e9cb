//! On-disk format of the retired-page list, shared with firmware: no_std.
