//! Linux' `struct mce`, one after the other, as `/dev/mcelog` gives them: no signature and no length, but
//! a kernel's are all of one length, and each has bits that have to be set.

use mce_decoder::mca::{self, STRUCT_MCE_LENGTHS};
use ras_core::{Problem, ProblemKind};

use super::START_MAX;
use crate::input::Input;
use crate::read::{Options, Output, Stop};

/// Linux, `arch/x86/include/uapi/asm/mce.h`: where `cpuvendor` is, and the byte of padding after it.
const VENDOR_AT: usize = 56;
const PAD_AT: usize = 59;
const CPUID_AT: usize = 60;
const BANK_AT: usize = 65;
/// `X86_VENDOR_NUM`: numbers that the kernel has for makers of processors.
const VENDORS: u8 = 12;
/// `X86_VENDOR_UNKNOWN`.
const VENDOR_UNKNOWN: u8 = 0xff;
/// `MAX_NR_BANKS`, and the bank of firmware's errors.
const BANKS: u8 = 64;
const FIRMWARE_BANK: u8 = 255;

pub(super) fn is_struct_mce(start: &[u8]) -> bool {
    length(start).is_some()
}

/// The length of each structure, by which all that are whole in `start` can be one.
fn length(start: &[u8]) -> Option<usize> {
    // The start of a longer input is cut anywhere; an input that is all there has whole ones.
    let whole = |length: &&usize| start.len() >= START_MAX || start.len().is_multiple_of(**length);
    let fits =
        |length: &&usize| start.len() >= **length && start.chunks_exact(**length).all(is_plausible);
    let mut lengths = STRUCT_MCE_LENGTHS.iter();
    lengths
        .clone()
        .find(|length| whole(length) && fits(length))
        .or_else(|| lengths.find(fits))
        .copied()
}

fn is_plausible(bytes: &[u8]) -> bool {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let valid = at(7) >> 7 == 1;
    let vendor = at(VENDOR_AT);
    let bank = at(BANK_AT);
    let processor = bytes.get(CPUID_AT..CPUID_AT + 4).is_some_and(|cpuid| cpuid != [0; 4]);
    valid
        && (vendor < VENDORS || vendor == VENDOR_UNKNOWN)
        && at(PAD_AT) == 0
        && (processor || vendor == VENDOR_UNKNOWN)
        && (bank < BANKS || bank == FIRMWARE_BANK)
}

pub(super) fn read(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    // Somebody may have asked for this format: then the kernels of today are taken.
    let length = length(input.peek(START_MAX)?).unwrap_or(STRUCT_MCE_LENGTHS[0]);
    loop {
        let at = input.offset();
        let bytes = input.peek(length)?;
        let bytes = &bytes[..length.min(bytes.len())];
        if bytes.is_empty() {
            return Ok(());
        }
        let count = bytes.len();
        let decoded = mca::decode_struct(bytes);
        if count < length {
            let detail = format!("{count} bytes of a structure of {length}");
            let problem = Problem { offset: at, kind: ProblemKind::Truncated, detail };
            match decoded {
                Some(mut record) => {
                    record.problems.push(problem);
                    output.record(at, None, record)?;
                }
                None => output.damage(None, problem)?,
            }
        } else if let Some(record) = decoded {
            output.record(at, None, record)?;
        }
        input.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;
    use crate::inject;
    use crate::read::{self, Damage, Found, Sink};

    #[derive(Default)]
    struct Kept(Vec<Found>, Vec<Problem>);

    impl Sink for Kept {
        fn record(&mut self, found: Found) -> std::io::Result<()> {
            self.0.push(found);
            Ok(())
        }
        fn damage(&mut self, damage: Damage) -> std::io::Result<()> {
            self.1.push(damage.problem);
            Ok(())
        }
    }

    /// Three of them, cut to the length that an older kernel's had.
    fn structures(length: usize) -> Vec<u8> {
        let description = r#"{ "form": "struct-mce", "error": [
            { "kind": "mce", "cpuid": "0x406f1", "bank": 7, "status": "0x8c00004000010090",
              "addr": "0x1234000", "misc": "0x8c", "cpu": 1, "time": "2024-02-29T23:59:58Z" },
            { "kind": "mce", "cpuid": "0x406f1", "bank": 8, "status": "0xbd80000000100134", "cpu": 2 },
            { "kind": "mce", "vendor": "amd", "cpuid": "0xa00f11", "bank": 18,
              "status": "0x9c2040000000011b", "ipid": "0x9600050f00" }] }"#;
        let bytes = inject::build(&inject::parse(description).unwrap()).unwrap();
        bytes.chunks(128).flat_map(|one| &one[..length]).copied().collect()
    }

    fn decoded(bytes: Vec<u8>, asked: bool) -> Kept {
        let format = asked.then(|| format::by_name("struct-mce").unwrap());
        let options = Options { format, ..Options::default() };
        let mut kept = Kept::default();
        read::stream("-", Input::of_bytes(bytes), &options, &mut kept).unwrap();
        kept
    }

    #[test]
    fn every_length_that_kernels_have_written_is_told() {
        for length in STRUCT_MCE_LENGTHS {
            let bytes = structures(length);
            assert_eq!(format::detect(&bytes, "-").unwrap().name, "struct-mce", "{length}");
            let Kept(found, problems) = decoded(bytes, false);
            let places: Vec<_> = found.iter().map(|found| found.offset).collect();
            assert_eq!(places, [0, length as u64, 2 * length as u64]);
            assert_eq!(found[1].record.location.cpu, Some(2), "{length}");
            assert_eq!(problems, []);
        }
    }

    #[test]
    fn a_cut_one_is_damage_beside_the_others() {
        let mut bytes = structures(128);
        bytes.truncate(2 * 128 + 90);
        let Kept(found, _) = decoded(bytes.clone(), false);
        assert_eq!(found.len(), 3);
        assert_eq!(found[2].record.problems[0].kind, ProblemKind::Truncated);
        bytes.truncate(2 * 128 + 9);
        let Kept(found, problems) = decoded(bytes, false);
        assert_eq!((found.len(), problems.len()), (2, 1));
        assert_eq!(problems[0].offset, 256);
        // Whatever is called one is read as one, to its end.
        let Kept(found, problems) = decoded(vec![0x55; 300], true);
        assert_eq!((found.len(), problems.len()), (2, 1));
    }

    #[test]
    fn other_bytes_are_none() {
        for bytes in [
            vec![0; 128],
            vec![0xff; 256],
            structures(128)[..87].to_vec(),
            structures(128)[8..].to_vec(),
        ] {
            assert!(!is_struct_mce(&bytes));
        }
    }
}
