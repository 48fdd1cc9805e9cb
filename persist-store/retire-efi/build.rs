//! Links the image as a driver.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("uefi") {
        // A Driver#### image is loaded as one; the target's default is an application.
        println!("cargo::rustc-link-arg-bins=/subsystem:efi_boot_service_driver");
        // Firmware puts an image at its preferred base where that is free. lld's, 5 GiB, is memory on
        // today's machines, and may be one of the pages to be excluded.
        println!("cargo::rustc-link-arg-bins=/base:0");
    }
}
