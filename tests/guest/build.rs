//! Links the guest as a fixed-address PVH ELF.

fn main() {
    println!("cargo::rerun-if-changed=guest.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-T{directory}/guest.ld");
        // The target defaults to position independence, which would need somebody to relocate us.
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
