use super::*;
use crate::cper::section::tests::{body, decoded, detail};
use alloc::vec;
use proptest::prelude::*;
use ras_core::{CpuVendor, Raw, Severity};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32};

const CACHE: [u8; 16] =
    Guid::new(0xa557_01f5, 0xe3ef, 0x43de, [0xac, 0x72, 0x24, 0x9b, 0x57, 0x3f, 0xad, 0x2c]).0;
const BUS: [u8; 16] =
    Guid::new(0x1cf3_f8b3, 0xc5b1, 0x49a2, [0xaa, 0x59, 0x5e, 0xef, 0x92, 0xff, 0xa6, 0x3c]).0;

fn info(error_type: [u8; 16], check_info: u64, target: u64) -> Vec<u8> {
    body::<ErrorInfo>(|info| {
        info.error_type = error_type;
        info.validation_bits = U64::new(0b10011);
        info.check_info = U64::new(check_info);
        info.target_id = U64::new(target);
        info.instruction_pointer = U64::new(0x40_1000);
    })
}

fn context(context_type: u16, msr: u32, registers: &[u8]) -> Vec<u8> {
    let mut bytes = body::<ContextHeader>(|header| {
        header.context_type = U16::new(context_type);
        header.array_size = U16::new(u16::try_from(registers.len()).unwrap());
        header.msr_address = U32::new(msr);
    });
    bytes.extend(registers);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn section(cpuid: u64, infos: &[Vec<u8>], contexts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = body::<Ia32X64Error>(|head| {
        let valid = Ia32X64Valid::new()
            .with_local_apic_id(true)
            .with_cpuid(true)
            .with_error_info_count(u8::try_from(infos.len()).unwrap())
            .with_context_count(u8::try_from(contexts.len()).unwrap());
        head.validation_bits = U64::new(valid.into_bits());
        head.local_apic_id = U64::new(0x42);
        head.cpuid[0] = U64::new(cpuid);
    });
    bytes.extend(infos.concat());
    bytes.extend(contexts.concat());
    bytes
}

#[test]
fn the_worst_check_gives_the_summary() {
    // A corrected cache check, and an uncorrected bus check of memory.
    let cache = 0b111 | 1 << 16 | 3 << 18 | 2 << 22;
    let bus = 0b101_0001_0110 | 1 << 18 | 3 << 22 | 1 << 26;
    let bytes = section(0x606a6, &[info(CACHE, cache, 0x1000), info(BUS, bus, 0x2_0000)], &[]);
    let record = decoded(SECTION_TYPE, 0, &bytes);
    assert_eq!(record.problems, []);
    assert_eq!(record.class, ErrorClass::Bus);
    assert_eq!(
        record.summary,
        "bus error during generic read, level 3, uncorrected, action optional"
    );
    assert_eq!(record.address.map(|a| (a.addr.0, a.mode)), Some((0x2_0000, AddressMode::Generic)));
    assert_eq!(detail(&record, "local_apic_id"), Some(&Value::Hex(0x42)));
    assert_eq!(detail(&record, "family"), Some(&Value::Hex(6)));
    assert_eq!(detail(&record, "error_info.0.check.level"), Some(&Value::Number(2)));
    let told = detail(&record, "error_info.1.check.address_space");
    assert_eq!(told, Some(&Value::code(0, &[(0, "memory")])));
    let told = detail(&record, "error_info.1.check.overflow");
    assert_eq!(told, None, "it is not valid");
}

#[test]
fn microarchitecture_checks_have_their_own_layout() {
    let check = Check::new(
        Guid::new(0x48ab_7f57, 0xdc34, 0x4f6c, [0xa7, 0xd3, 0xb0, 0xb5, 0xb0, 0xa7, 0x43, 0x14]),
        0b11 | 2 << 16 | 1 << 19,
    );
    let check = check.unwrap();
    assert_eq!((check.class(), check.gravity()), (ErrorClass::Internal, 2));
    let mut text = String::new();
    check.describe(true, &mut text);
    assert_eq!(text, "microarchitecture error (microcode ROM parity)");
    assert_eq!(check.details().len(), 2);
}

#[test]
fn banks_in_contexts_are_witnesses() {
    // Bank 7's status, address and misc: a memory read error on channel 1.
    let bank = words(&[0x8c00_0040_0001_0091, 0x1_2345_6780, 0x86]);
    let general = words(&[1 << 24 | 1 << 10 | 20, 5]);
    let contexts = [context(1, 0x179, &general), context(1, 0x41d, &bank)];
    let record = decoded(SECTION_TYPE, 2, &section(0x606a6, &[], &contexts));
    assert_eq!(record.problems, []);
    let [witness] = record.witnesses.as_slice() else { panic!("{record:?}") };
    let Raw::Mca(registers) = &witness.raw else { panic!("{witness:?}") };
    assert_eq!((registers.vendor, registers.bank), (CpuVendor::Intel, 7));
    assert_eq!((registers.cpuid, registers.apic_id), (0x606a6, 0x42));
    assert_eq!((registers.mcg_status, registers.misc), (5, 0x86));
    assert_eq!(witness.severity, Severity::Corrected);
    assert_eq!((record.class, record.severity), (ErrorClass::Memory, Severity::Corrected));
    assert_eq!(record.address.map(|a| (a.addr.0, a.lsb)), Some((0x1_2345_6780, 6)));
    assert!(record.summary.ends_with("; firmware calls it corrected"), "{}", record.summary);
    assert_eq!(detail(&record, "contexts.1.registers.1"), Some(&Value::Hex(0x1_2345_6780)));
}

#[test]
fn scalable_banks_are_amd_s() {
    // Bank 17, from its status on: a corrected UMC error.
    let bank = words(&[
        0xdc20_4000_0000_011b,
        0x1000,
        0,
        0x1ff,
        0x0096_0000_0000,
        0x5a00_0b00_0a80_1001,
        0,
        0,
        0,
    ]);
    let contexts = [context(1, 0xc000_2111, &bank)];
    let record = decoded(SECTION_TYPE, 2, &section(0xa0_0f11, &[], &contexts));
    let [witness] = record.witnesses.as_slice() else { panic!("{record:?}") };
    let Raw::Mca(registers) = &witness.raw else { panic!("{witness:?}") };
    assert_eq!((registers.vendor, registers.bank), (CpuVendor::Amd, 17));
    assert_eq!((registers.config, registers.synd), (0x1ff, 0x5a00_0b00_0a80_1001));
    assert_eq!(record.class, ErrorClass::Memory);
}

#[test]
fn registers_by_name() {
    let all: Vec<u8> = (0..=243).collect();
    let record = decoded(
        SECTION_TYPE,
        1,
        &section(0, &[], &[context(3, 0, &all), context(4, 0, &[1; 512])]),
    );
    assert_eq!(record.problems, []);
    let hex = |path: &str| detail(&record, path).cloned();
    let rip = "contexts.0.registers.rip";
    assert_eq!(hex(rip), Some(Value::Hex(u64::from_le_bytes(all[152..160].try_into().unwrap()))));
    assert_eq!(hex("contexts.0.registers.tr"), Some(Value::Hex(0xf3f2)));
    assert_eq!(hex("contexts.0.registers.rest"), None);
    assert_eq!(hex("contexts.1.registers.xmm15"), Some(Value::Bytes(vec![1; 16])));
}

#[test]
fn counts_are_bounded_by_the_bytes() {
    let mut head = Ia32X64Error::new_zeroed();
    let valid = Ia32X64Valid::new().with_error_info_count(63).with_context_count(63);
    head.validation_bits = U64::new(valid.into_bits());
    let record = decoded(SECTION_TYPE, 1, head.as_bytes());
    let told: Vec<&str> = record.problems.iter().map(|p| p.detail.as_str()).collect();
    assert_eq!(
        told,
        ["error information structure 0 of 63 is cut", "context structure 0 of 63 is cut"]
    );
    // A context that says more than there is.
    let mut cut = section(0, &[], &[context(1, 0x401, &words(&[1 << 63, 2]))]);
    cut.truncate(cut.len() - 8);
    let record = decoded(SECTION_TYPE, 1, &cut);
    assert_eq!(record.problems.len(), 1);
    assert_eq!(record.witnesses.len(), 1, "what is there is decoded");
}

proptest! {
    #[test]
    fn what_is_built_comes_back(
        checks in proptest::collection::vec((any::<bool>(), any::<u64>(), any::<u64>()), 0..6),
        contexts in proptest::collection::vec(
            (0u16..9, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..6),
    ) {
        let infos: Vec<Vec<u8>> = checks
            .iter()
            .map(|(bus, word, target)| info(if *bus { BUS } else { CACHE }, *word, *target))
            .collect();
        let built: Vec<Vec<u8>> =
            contexts.iter().map(|(kind, msr, bytes)| context(*kind, *msr, bytes)).collect();
        let record = decoded(SECTION_TYPE, 2, &section(0x606a6, &infos, &built));
        prop_assert_eq!(&record.problems, &[]);
        for (index, (_, word, target)) in checks.iter().enumerate() {
            let told = |name| detail(&record, &alloc::format!("error_info.{index}.{name}"));
            prop_assert_eq!(told("check_info"), Some(&Value::Hex(*word)));
            prop_assert_eq!(told("target_id"), Some(&Value::Hex(*target)));
        }
        for (index, (_, msr, bytes)) in contexts.iter().enumerate() {
            let told = |name| detail(&record, &alloc::format!("contexts.{index}.{name}"));
            prop_assert_eq!(told("msr_address"), Some(&Value::Hex((*msr).into())));
            prop_assert_eq!(told("array_size"), Some(&Value::Number(bytes.len() as u64)));
        }
    }

    #[test]
    fn any_body_is_one_record(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let record = decoded(SECTION_TYPE, 1, &bytes);
        prop_assert!(!record.summary.is_empty());
        prop_assert!(record.problems.iter().all(|p| p.offset <= 200 + bytes.len() as u64));
    }
}

/// Found by the fuzzer: the last register there can be, and more words behind it.
#[test]
fn registers_beyond_the_last_are_none() {
    let bytes = section(0x606a6, &[], &[context(1, u32::MAX, &words(&[1, 2, 3]))]);
    let record = decoded(SECTION_TYPE, 2, &bytes);
    assert!(record.witnesses.is_empty());
}
