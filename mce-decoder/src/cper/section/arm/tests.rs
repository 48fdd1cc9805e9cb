use super::*;
use crate::cper::section::tests::{body, decoded, detail};
use alloc::vec;
use proptest::prelude::*;

fn info(error_type: u8, word: u64, valid: u16) -> Vec<u8> {
    body::<ArmErrorInfo>(|info| {
        info.length = 32;
        info.validation_bits = U16::new(valid);
        info.error_type = error_type;
        info.multiple_error = U16::new(3);
        info.flags = 0b1001;
        info.error_info = U64::new(word);
        info.virtual_fault_address = U64::new(0xffff_0000_1234_5678);
        info.physical_fault_address = U64::new(0x80_1234_5678);
    })
}

fn context(context_type: u16, registers: &[u8]) -> Vec<u8> {
    let mut bytes = body::<ArmContextHeader>(|header| {
        header.context_type = U16::new(context_type);
        header.array_size = U32::new(u32::try_from(registers.len()).unwrap());
    });
    bytes.extend(registers);
    bytes
}

fn section(infos: &[Vec<u8>], contexts: &[Vec<u8>], vendor: &[u8]) -> Vec<u8> {
    let rest = [infos.concat(), contexts.concat(), vendor.into()].concat();
    let mut bytes = body::<ArmError>(|head| {
        head.validation_bits = U32::new(0xf);
        head.error_info_count = U16::new(u16::try_from(infos.len()).unwrap());
        head.context_count = U16::new(u16::try_from(contexts.len()).unwrap());
        head.section_length = U32::new(u32::try_from(40 + rest.len()).unwrap());
        head.affinity_level = 1;
        head.mpidr = U64::new(0x81_0102_0304);
        head.midr = U64::new(0x410f_d0c1);
        head.running_state = U32::new(1);
    });
    bytes.extend(rest);
    bytes
}

#[test]
fn the_worst_error_gives_class_and_address() {
    let cache = 0b1_0111 | 1 << 16 | 3 << 18 | 2 << 22 | 1 << 26;
    let bus = 0b1111_1111_1111 | 4 << 18 | 1 << 29 | 1 << 31 | 3 << 32 | 0x15 << 34 | 1 << 43;
    let bytes = section(&[info(1 << 1, cache, 0xf), info(1 << 3, bus, 0x1f)], &[], &[7, 8, 9]);
    let record = decoded(SECTION_TYPE, 0, &bytes);
    assert_eq!(record.problems, []);
    assert_eq!((record.class, record.count), (ErrorClass::Bus, 3));
    assert_eq!(
        record.summary,
        "ARM bus error during data write, level 0, uncorrected, action optional, at 0x8012345678"
    );
    assert_eq!(record.pages().map(|pages| pages.start.0), Some(0x801_2345));
    let told = |path| detail(&record, path).cloned();
    assert_eq!(told("mpidr.aff3"), Some(Value::Number(0x81)));
    assert_eq!(told("midr.implementer"), Some(Value::code(0x41, IMPLEMENTERS)));
    assert_eq!(told("midr.part"), Some(Value::Hex(0xd0c)));
    assert_eq!(told("running"), Some(Value::Flag(true)));
    assert_eq!(told("error_info.0.flags.1"), Some(Value::from("overflow")));
    assert_eq!(told("error_info.0.error.corrected"), Some(Value::Flag(true)));
    assert_eq!(told("error_info.0.physical_fault_address"), None);
    assert_eq!(told("error_info.1.error.memory_attributes"), Some(Value::Hex(0x15)));
    assert_eq!(told("error_info.1.error.access_mode"), Some(Value::code(1, &[(1, "normal")])));
    assert_eq!(told("vendor_info"), Some(Value::Bytes(vec![7, 8, 9])));
}

#[test]
fn a_type_of_no_certain_meaning_gets_none() {
    for error_type in [0, 1, 0x20] {
        let record =
            decoded(SECTION_TYPE, 2, &section(&[info(error_type, 0xffff_ffff, 4)], &[], &[]));
        assert_eq!(record.class, ErrorClass::Processor);
        assert_eq!(record.summary, "ARM processor error, corrected");
        let code = Value::Code { code: error_type.into(), meaning: None };
        assert_eq!(detail(&record, "error_info.0.error_type"), Some(&code));
        assert_eq!(detail(&record, "error_info.0.error_info"), Some(&Value::Hex(0xffff_ffff)));
        assert_eq!(detail(&record, "error_info.0.error"), None);
    }
}

#[test]
fn registers_by_name() {
    let mut general: Vec<u8> = (0..=255).collect();
    general.push(0xee);
    let mut system = vec![0b1101_0000, 0xc0];
    system.extend(0x77u64.to_le_bytes());
    let record =
        decoded(SECTION_TYPE, 1, &section(&[], &[context(4, &general), context(8, &system)], &[]));
    assert_eq!(record.problems, []);
    let told = |path| detail(&record, path).cloned();
    let sp = u64::from_le_bytes(general[248..256].try_into().unwrap());
    assert_eq!(told("contexts.0.registers.sp"), Some(Value::Hex(sp)));
    assert_eq!(told("contexts.0.registers.rest"), Some(Value::Bytes(vec![0xee])));
    assert_eq!(told("contexts.1.registers.0.o0"), Some(Value::Number(3)));
    assert_eq!(told("contexts.1.registers.0.value"), Some(Value::Hex(0x77)));
}

#[test]
fn counts_are_bounded_by_the_bytes() {
    let mut bytes = section(&[], &[], &[]);
    bytes[4..8].fill(0xff);
    let record = decoded(SECTION_TYPE, 1, &bytes);
    let told: Vec<&str> = record.problems.iter().map(|p| p.detail.as_str()).collect();
    assert_eq!(
        told,
        ["error information structure 0 of 65535 is cut", "context structure 0 of 65535 is cut"]
    );
    bytes[8..12].fill(0xff);
    let record = decoded(SECTION_TYPE, 1, &bytes);
    assert_eq!(record.problems[0].detail, "ARM section of 4294967295 bytes in one of 40");
    // Many empty contexts: as many as there are headers.
    let record = decoded(SECTION_TYPE, 1, &section(&[], &vec![context(5, &[]); 900], &[]));
    assert!(matches!(detail(&record, "contexts"), Some(Value::List(list)) if list.len() == 900));
}

proptest! {
    #[test]
    fn what_is_built_comes_back(
        infos in proptest::collection::vec((any::<u8>(), any::<u64>()), 0..6),
        contexts in proptest::collection::vec(
            (0u16..10, proptest::collection::vec(any::<u8>(), 0..80)), 0..6),
    ) {
        let built: Vec<Vec<u8>> = infos.iter().map(|(kind, word)| info(*kind, *word, 0x1f)).collect();
        let arrays: Vec<Vec<u8>> =
            contexts.iter().map(|(kind, bytes)| context(*kind, bytes)).collect();
        let record = decoded(SECTION_TYPE, 2, &section(&built, &arrays, &[]));
        prop_assert_eq!(&record.problems, &[]);
        for (index, (_, word)) in infos.iter().enumerate() {
            let told = detail(&record, &format!("error_info.{index}.error_info"));
            prop_assert_eq!(told, Some(&Value::Hex(*word)));
        }
        for (index, (_, bytes)) in contexts.iter().enumerate() {
            let told = detail(&record, &format!("contexts.{index}.array_size"));
            prop_assert_eq!(told, Some(&Value::Number(bytes.len() as u64)));
        }
    }

    #[test]
    fn any_body_is_one_record(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let record = decoded(SECTION_TYPE, 1, &bytes);
        prop_assert!(!record.summary.is_empty());
        prop_assert!(record.problems.iter().all(|p| p.offset <= 200 + bytes.len() as u64));
    }
}
