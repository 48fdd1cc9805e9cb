//! What UEFI has to be told, and in which bytes, to load a driver at every boot. No I/O.
//!
//! [`image`] looks at a driver's file, [`load_option`] at the variables that name it.

pub mod image;
pub mod load_option;
