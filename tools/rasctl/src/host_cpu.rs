//! The processor this program runs on, for records whose source does not name theirs.

use ras_core::CpuVendor;

/// Maker, and CPUID leaf 1's EAX: family, model, stepping. `None` on processors that are not x86.
#[must_use]
pub fn host_cpu() -> Option<(CpuVendor, u32)> {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        let maker = raw_cpuid::CpuId::new().get_vendor_info()?;
        let signature = raw_cpuid::native_cpuid::cpuid_count(1, 0).eax;
        Some((vendor(maker.as_str()), signature))
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    None
}

/// CPUID leaf 0's string.
fn vendor(text: &str) -> CpuVendor {
    match text {
        "GenuineIntel" => CpuVendor::Intel,
        "AuthenticAMD" => CpuVendor::Amd,
        "HygonGenuine" => CpuVendor::Hygon,
        "CentaurHauls" | "  Shanghai  " => CpuVendor::Zhaoxin,
        _ => CpuVendor::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/proc/cpuinfo` tells the same, family and model put together by the kernel.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_kernel_agrees() {
        let (maker, signature) = host_cpu().expect("an x86 processor has CPUID");
        let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") else {
            println!("skipped: no /proc/cpuinfo");
            return;
        };
        let field = |name: &str| {
            let line =
                text.lines().find(|line| line.split(':').next().map(str::trim) == Some(name));
            line.and_then(|line| line.split(':').nth(1)).map(|value| value.trim().to_owned())
        };
        assert_eq!(field("vendor_id").map(|text| vendor(&text)), Some(maker));
        let cpu = mce_decoder::mca::status::CpuSignature::from_bits(signature);
        assert_eq!(field("cpu family"), Some(cpu.family().to_string()));
        assert_eq!(field("model"), Some(cpu.model().to_string()));
    }
}
