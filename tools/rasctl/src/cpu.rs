//! `--cpu`: which processor registers are of, where their source does not say.

use std::str::FromStr;

use mce_decoder::cpu;
use ras_core::{CpuVendor, McaRegisters};

use crate::host_cpu::host_cpu;

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

/// `host` for this one, or every spelling that [`mce_decoder::cpu::Cpu`] knows: `6:0x55:4`, `0x50654`, `amd:0x19:1`,
/// `GenuineIntel-6-55-4`, `Family 6 Model 85 Stepping 4`.
impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "host" {
            let (vendor, cpuid) = host_cpu().ok_or("this host has no CPUID")?;
            return Ok(Self { vendor, cpuid });
        }
        let named: cpu::Cpu = text.parse().map_err(|error: cpu::CpuError| error.to_string())?;
        let vendor = named
            .likely_vendor()
            .ok_or("the family is of more than one maker: begin with intel: or amd:")?;
        Ok(Self { vendor, cpuid: named.cpuid })
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
            ("AuthenticAMD-25-1-1", CpuVendor::Amd, 0xa0_0f11),
        ] {
            assert_eq!(text.parse(), Ok(Cpu { vendor, cpuid }), "{text}");
        }
        for wrong in ["", "6", "0", "6:", "6:0x100", "6:1:16", "6:1:1:1", "x:6:1", "300:1", "15:4"]
        {
            // One number is CPUID's EAX, in hexadecimal. A family of two makers needs to be told whose.
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
