//! The driver's image. On any other target than UEFI there is nothing to build: what it decides is the
//! library's, and is tested there.

#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
mod firmware;

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("retire-efi: build this for x86_64-unknown-uefi");
    std::process::exit(2);
}
