//! `--cpu`: which processor registers are of, where their source does not say.

use std::str::FromStr;

use ras_core::{CpuVendor, McaRegisters};

/// A processor's maker and model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Maker.
    pub vendor: CpuVendor,
    /// CPUID leaf 1, EAX.
    pub cpuid: u32,
}

impl Cpu {
    /// Fills in what a source left out. What it does say stays.
    pub fn complete(self, registers: &mut McaRegisters) {
        if matches!(registers.vendor, CpuVendor::Unknown(_)) && registers.cpuid == 0 {
            registers.vendor = self.vendor;
        }
        if registers.vendor == self.vendor && registers.cpuid == 0 {
            registers.cpuid = self.cpuid;
        }
    }
}

/// `FAMILY:MODEL[:STEPPING]` or CPUID leaf 1's EAX as one number, each decimal or `0x…`; before either
/// may stand the maker and a colon: `6:0x55:4`, `0x50654`, `amd:0x19:1`.
impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "FAMILY:MODEL[:STEPPING] or CPUID leaf 1 EAX, numbers decimal or 0x…, \
                             after intel:, amd:, hygon: or zhaoxin: if need be";
        let (named, rest) = match text.split_once(':') {
            Some((name, rest)) => match vendor(&name.to_ascii_lowercase()) {
                Some(vendor) => (Some(vendor), rest),
                None => (None, text),
            },
            None => (None, text),
        };
        let numbers: Option<Vec<u32>> = rest.split(':').map(number).collect();
        let cpuid = match numbers.as_deref() {
            Some([cpuid]) => Some(*cpuid),
            Some([family, model]) => leaf(*family, *model, 0),
            Some([family, model, stepping]) => leaf(*family, *model, *stepping),
            _ => None,
        };
        let cpuid = cpuid.filter(|cpuid| *cpuid != 0).ok_or(SHAPE)?;
        let vendor = named.or_else(|| vendor_of(cpuid)).ok_or_else(|| {
            format!("family {} is of more than one maker: begin with intel: or amd:", family(cpuid))
        })?;
        Ok(Self { vendor, cpuid })
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn vendor(name: &str) -> Option<CpuVendor> {
    Some(match name {
        "intel" => CpuVendor::Intel,
        "amd" => CpuVendor::Amd,
        "hygon" => CpuVendor::Hygon,
        "zhaoxin" => CpuVendor::Zhaoxin,
        _ => return None,
    })
}

/// CPUID leaf 1, EAX: SDM vol. 2A, "CPUID", "Version Information"; AMD's APM vol. 3 has the same.
fn leaf(family: u32, model: u32, stepping: u32) -> Option<u32> {
    let (base, extended) = if family < 0xf { (family, 0) } else { (0xf, family - 0xf) };
    let fits = extended <= 0xff && model <= 0xff && stepping <= 0xf;
    fits.then_some(extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | stepping)
}

const fn family(cpuid: u32) -> u32 {
    let base = cpuid >> 8 & 0xf;
    if base == 0xf { base + (cpuid >> 20 & 0xff) } else { base }
}

/// The maker whose server processors have this family. 0Fh is Intel's Pentium 4 and AMD's K8.
const fn vendor_of(cpuid: u32) -> Option<CpuVendor> {
    match family(cpuid) {
        5 | 6 | 0x12 | 0x13 => Some(CpuVendor::Intel),
        7 => Some(CpuVendor::Zhaoxin),
        0x18 => Some(CpuVendor::Hygon),
        0x10 | 0x11 | 0x14..=0x17 | 0x19..=0x1f => Some(CpuVendor::Amd),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_the_processor() {
        for (text, vendor, cpuid) in [
            ("6:0x55:4", CpuVendor::Intel, 0x50654),
            ("6:85", CpuVendor::Intel, 0x50650),
            ("0x50654", CpuVendor::Intel, 0x50654),
            ("0x19:1:1", CpuVendor::Amd, 0xa0_0f11),
            ("25:0x11:0x1", CpuVendor::Amd, 0xa1_0f11),
            ("0x18:0:1", CpuVendor::Hygon, 0x90_0f01),
            ("7:0x5b", CpuVendor::Zhaoxin, 0x507b0),
            ("Intel:15:4:1", CpuVendor::Intel, 0xf41),
            ("amd:15:0x41:3", CpuVendor::Amd, 0x4_0f13),
        ] {
            assert_eq!(text.parse(), Ok(Cpu { vendor, cpuid }), "{text}");
        }
        for wrong in ["", "6", "0", "6:", "6:0x100", "6:1:16", "6:1:1:1", "x:6:1", "300:1", "15:4"]
        {
            // One number is CPUID's EAX, whose family has to be known.
            assert!(wrong.parse::<Cpu>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_source_says_stays() {
        let cpu: Cpu = "6:0x55:4".parse().unwrap();
        let check = |vendor, cpuid, expect| {
            let mut registers = McaRegisters { vendor, cpuid, ..McaRegisters::default() };
            cpu.complete(&mut registers);
            assert_eq!((registers.vendor, registers.cpuid), expect);
        };
        check(CpuVendor::Unknown(255), 0, (CpuVendor::Intel, 0x50654));
        check(CpuVendor::Intel, 0, (CpuVendor::Intel, 0x50654));
        check(CpuVendor::Intel, 0x606a6, (CpuVendor::Intel, 0x606a6));
        check(CpuVendor::Amd, 0, (CpuVendor::Amd, 0));
        check(CpuVendor::Unknown(4), 0x606a6, (CpuVendor::Unknown(4), 0x606a6));
    }
}
