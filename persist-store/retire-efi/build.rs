//! Links the image as a driver.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("uefi") {
        // A Driver#### image is loaded as one; the target's default is an application.
        println!("cargo::rustc-link-arg-bins=/subsystem:efi_boot_service_driver");
        // Firmware puts an image at its preferred base where that is free. lld's, 5 GiB, is memory on
        // today's machines, and may be one of the pages to be excluded.
        println!("cargo::rustc-link-arg-bins=/base:0");
        // `rasctl boot status` reads the version from the image's header, which has room for two numbers.
        let part = |name: &str| std::env::var(name).unwrap_or_else(|_| "0".to_owned());
        let (major, minor) = (part("CARGO_PKG_VERSION_MAJOR"), part("CARGO_PKG_VERSION_MINOR"));
        println!("cargo::rustc-link-arg-bins=/version:{major}.{minor}");
    }
}
