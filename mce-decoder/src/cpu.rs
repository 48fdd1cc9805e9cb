//! Processors by name: CPUID leaf 1's EAX, however people and programs write it.

use core::fmt;
use core::str::FromStr;

use ras_core::{CpuVendor, McaRegisters};
use thiserror::Error;

use crate::mca::findings::Findings;
use crate::mca::status::CpuSignature;
use crate::vendor;

/// A processor's maker and model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cpu {
    /// Maker, where it was said.
    pub vendor: Option<CpuVendor>,
    /// CPUID leaf 1, EAX: family, model and stepping. See [`CpuSignature`].
    pub cpuid: u32,
}

/// Why a text names no processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CpuError {
    /// It is none of the known spellings.
    #[error(
        "no processor: FAMILY:MODEL[:STEPPING], CPUID leaf 1 EAX as 0x…, \
         \"Family F Model M Stepping S\" or MAKER-FAMILY-MODEL-STEPPING is known"
    )]
    Shape,
    /// There is no such family, model or stepping.
    #[error("no processor: CPUID can't express family {family} model {model} stepping {stepping}")]
    Range {
        /// Family.
        family: u32,
        /// Model.
        model: u32,
        /// Stepping.
        stepping: u32,
    },
}

impl Cpu {
    /// The processor of a family, model and stepping as the manuals print them.
    ///
    /// SDM vol. 2A, "CPUID", "Version Information"; APM vol. 3 has the same. Families from 15 on are in
    /// an extension, and so are models from 16 on, which families below 6 do not have.
    ///
    /// # Errors
    ///
    /// [`CpuError::Range`].
    pub fn new(
        vendor: Option<CpuVendor>,
        family: u32,
        model: u32,
        stepping: u32,
    ) -> Result<Self, CpuError> {
        let (base, extended) = if family < 15 { (family, 0) } else { (15, family - 15) };
        let model_max = if base < 6 { 0xf } else { 0xff };
        if family == 0 || extended > 0xff || model > model_max || stepping > 0xf {
            return Err(CpuError::Range { family, model, stepping });
        }
        let cpuid = extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | stepping;
        Ok(Self { vendor, cpuid })
    }

    /// The maker: as it was said, or else the one whose servers have this family. Family 15 is Intel's
    /// and AMD's.
    #[must_use]
    pub fn likely_vendor(self) -> Option<CpuVendor> {
        self.vendor.or_else(|| {
            Some(match CpuSignature::from_bits(self.cpuid).family() {
                5 | 6 | 0x12 | 0x13 => CpuVendor::Intel,
                7 => CpuVendor::Zhaoxin,
                0x18 => CpuVendor::Hygon,
                0x10 | 0x11 | 0x14..=0x17 | 0x19..=0x1f => CpuVendor::Amd,
                _ => return None,
            })
        })
    }

    /// The generation, as its maker names it: `Ice Lake server`, `Zen 3`.
    #[must_use]
    pub fn generation(self) -> Option<&'static str> {
        // The decoders know the names; an empty bank gets nothing else from them.
        let registers = McaRegisters {
            vendor: self.likely_vendor()?,
            cpuid: self.cpuid,
            ..McaRegisters::default()
        };
        let mut findings = Findings::default();
        vendor::decoder(&registers)?(&registers, &mut findings);
        findings.generation
    }
}

impl fmt::Display for Cpu {
    /// `amd family 0x19 model 0x1 stepping 1 (Zen 3)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vendor) = self.likely_vendor() {
            write!(f, "{} ", vendor.name())?;
        }
        let cpu = CpuSignature::from_bits(self.cpuid);
        let (family, model, stepping) = (cpu.family(), cpu.model(), cpu.stepping());
        write!(f, "family {family:#x} model {model:#x} stepping {stepping}")?;
        match self.generation() {
            Some(generation) => write!(f, " ({generation})"),
            None => Ok(()),
        }
    }
}

/// These spellings, the maker and the stepping being optional everywhere:
///
/// - `25:1:1`, `0x19:0x1:0x1`, `amd:25:1`: decimal or `0x…`;
/// - `0xa00f11`, `amd:0xa00f11`: EAX as it is;
/// - `AuthenticAMD-25-1-1`: as perf writes it, model and stepping hexadecimal;
/// - `AuthenticAMD,25,1,1`: perf's other spelling, all decimal;
/// - `AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD`, `Vendor AMD Family 25 Model 1 Step 1` and
///   `/proc/cpuinfo`: words, each with a number behind it.
impl FromStr for Cpu {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, CpuError> {
        let text = text.trim();
        if text.as_bytes().windows(6).any(|word| word.eq_ignore_ascii_case(b"family")) {
            return words(text);
        }
        if let Some((maker, rest)) = text.split_once('-') {
            return numbers(Some(vendor(maker).ok_or(CpuError::Shape)?), rest, '-', [10, 16, 16]);
        }
        if let Some((maker, rest)) = text.split_once(',') {
            return numbers(Some(vendor(maker).ok_or(CpuError::Shape)?), rest, ',', [10; 3]);
        }
        let (vendor, rest) = match text.split_once(':').map(|(name, rest)| (vendor(name), rest)) {
            Some((Some(vendor), rest)) => (Some(vendor), rest),
            _ => (None, text),
        };
        if !rest.contains(':') {
            return match number(rest, 10) {
                Some(cpuid) if rest.starts_with("0x") && cpuid != 0 => Ok(Self { vendor, cpuid }),
                _ => Err(CpuError::Shape),
            };
        }
        numbers(vendor, rest, ':', [10; 3])
    }
}

/// Family, model and perhaps stepping, each in its radix.
fn numbers(
    vendor: Option<CpuVendor>,
    text: &str,
    separator: char,
    radices: [u32; 3],
) -> Result<Cpu, CpuError> {
    let [family, model, stepping] = radices;
    let mut parts = text.split(separator);
    let mut next = |radix| parts.next().map(|part| number(part, radix).ok_or(CpuError::Shape));
    let family = next(family).unwrap_or(Err(CpuError::Shape))?;
    let model = next(model).unwrap_or(Err(CpuError::Shape))?;
    let stepping = next(stepping).unwrap_or(Ok(0))?;
    match parts.next() {
        None => Cpu::new(vendor, family, model, stepping),
        Some(_) => Err(CpuError::Shape),
    }
}

/// Words of which some are followed by a number; the first of each counts. `model name` has none.
fn words(text: &str) -> Result<Cpu, CpuError> {
    let [mut family, mut model, mut stepping] = [None; 3];
    let mut named = None;
    let mut words = text
        .split(|char: char| char.is_whitespace() || matches!(char, ',' | ':' | ';' | '='))
        .filter(|word| !word.is_empty())
        .peekable();
    while let Some(word) = words.next() {
        let field = match word {
            _ if word.eq_ignore_ascii_case("family") => &mut family,
            _ if word.eq_ignore_ascii_case("model") => &mut model,
            _ if ["step", "stepping"].iter().any(|name| word.eq_ignore_ascii_case(name)) => {
                &mut stepping
            }
            _ => {
                named = named.or_else(|| vendor(word));
                continue;
            }
        };
        let value = words.peek().and_then(|word| number(word, 10));
        *field = field.or(value);
    }
    match (family, model) {
        (Some(family), Some(model)) => Cpu::new(named, family, model, stepping.unwrap_or(0)),
        _ => Err(CpuError::Shape),
    }
}

/// A number in `radix`, or hexadecimal after `0x`.
fn number(text: &str, radix: u32) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, radix),
    };
    // `from_str_radix` takes a sign as well.
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    all_digits.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Makers, as CPUID leaf 0, Windows and people call them.
fn vendor(name: &str) -> Option<CpuVendor> {
    const NAMES: &[(&str, CpuVendor)] = &[
        ("GenuineIntel", CpuVendor::Intel),
        ("Intel", CpuVendor::Intel),
        ("Intel64", CpuVendor::Intel),
        ("AuthenticAMD", CpuVendor::Amd),
        ("AMD", CpuVendor::Amd),
        ("AMD64", CpuVendor::Amd),
        ("HygonGenuine", CpuVendor::Hygon),
        ("Hygon", CpuVendor::Hygon),
        ("CentaurHauls", CpuVendor::Zhaoxin),
        ("Shanghai", CpuVendor::Zhaoxin),
        ("Zhaoxin", CpuVendor::Zhaoxin),
    ];
    let name = name.trim();
    let found = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, vendor)| *vendor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString as _;
    use proptest::prelude::*;

    use CpuVendor::{Amd, Hygon, Intel, Zhaoxin};

    #[test]
    fn every_spelling() {
        for (text, vendor, cpuid) in [
            ("6:0x55:4", None, 0x5_0654),
            ("6:85", None, 0x5_0650),
            ("0x50654", None, 0x5_0654),
            ("intel:0x50654", Some(Intel), 0x5_0654),
            ("25:1:1", None, 0xa0_0f11),
            ("amd:0x19:0x11:1", Some(Amd), 0xa1_0f11),
            (" 7:0x7b ", None, 0x7_07b0),
            ("15:4:1", None, 0xf41),
            ("Family 25 Model 1 Stepping 1", None, 0xa0_0f11),
            ("AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD", Some(Amd), 0xa0_0f11),
            ("CPUID Vendor Intel Family 6 Model 85 Step 7", Some(Intel), 0x5_0657),
            ("Vendor AMD family 0x18 model 0", Some(Amd), 0x90_0f00),
            ("GenuineIntel-6-55-4", Some(Intel), 0x5_0654),
            ("AuthenticAMD-25-1-1", Some(Amd), 0xa0_0f11),
            ("GenuineIntel-6-8F", Some(Intel), 0x8_06f0),
            ("HygonGenuine-24-0-1", Some(Hygon), 0x90_0f01),
            ("GenuineIntel,6,85,4", Some(Intel), 0x5_0654),
            ("CentaurHauls,7,91,0", Some(Zhaoxin), 0x5_07b0),
        ] {
            assert_eq!(text.parse(), Ok(Cpu { vendor, cpuid }), "{text}");
        }
    }

    #[test]
    fn proc_cpuinfo() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\n\
                    model name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\nstepping\t: 6\n";
        assert_eq!(text.parse(), Ok(Cpu { vendor: Some(Intel), cpuid: 0x6_06a6 }));
    }

    #[test]
    fn what_is_no_processor() {
        for text in [
            "",
            "6",
            "50654",
            "0x",
            "0x0",
            ":",
            "6:",
            ":6",
            "6:1:1:1",
            "x:6:1",
            "6:+1",
            "Family 6",
            "Skylake-6-55-4",
            "GenuineIntel-6",
            "GenuineIntel-6-5-5-5",
            "Family six Model one",
        ] {
            assert_eq!(text.parse::<Cpu>(), Err(CpuError::Shape), "{text:?}");
        }
        for (text, family, model, stepping) in [
            ("0:1:1", 0, 1, 1),
            ("271:1", 271, 1, 0),
            ("6:256", 6, 256, 0),
            ("5:16", 5, 16, 0),
            ("6:1:16", 6, 1, 16),
        ] {
            let range = CpuError::Range { family, model, stepping };
            assert_eq!(text.parse::<Cpu>(), Err(range), "{text}");
        }
    }

    #[test]
    fn shown_with_its_generation() {
        let shown = |text: &str| text.parse::<Cpu>().unwrap().to_string();
        assert_eq!(shown("0xa00f11"), "amd family 0x19 model 0x1 stepping 1 (Zen 3)");
        assert_eq!(shown("7:0x7b"), "zhaoxin family 0x7 model 0x7b stepping 0 (KH-50000)");
        assert_eq!(shown("24:0:1"), "hygon family 0x18 model 0x0 stepping 1 (Dhyana)");
        assert_eq!(shown("15:4:1"), "family 0xf model 0x4 stepping 1", "Intel's or AMD's");
        assert_eq!(shown("amd:15:0x41:3"), "amd family 0xf model 0x41 stepping 3 (K8)");
    }

    proptest! {
        #[test]
        fn made_of_its_parts(family in 6u32..=270, model in 0u32..=255, stepping in 0u32..16) {
            let cpu = Cpu::new(None, family, model, stepping).unwrap();
            let signature = CpuSignature::from_bits(cpu.cpuid);
            prop_assert_eq!(u32::from(signature.family()), family);
            prop_assert_eq!(u32::from(signature.model()), model);
            prop_assert_eq!(u32::from(signature.stepping()), stepping);
            prop_assert_eq!(format!("{family}:{model:#x}:{stepping}").parse(), Ok(cpu));
        }

        #[test]
        fn any_text(text in "\\PC*") {
            let _ = text.parse::<Cpu>();
        }
    }
}
