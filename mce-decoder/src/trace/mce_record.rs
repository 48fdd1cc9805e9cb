//! `mce:mce_record`: one machine-check bank, as the kernel read it.

use ras_core::{CpuVendor, ErrorRecord, McaRegisters, Timestamp};

use super::{EventFormat, TraceError};
use crate::mca::{self, Context};

/// Decodes one payload, the common fields included.
///
/// Fields that some kernels lack (`ppin`, `microcode` before 6.9, and whatever identifies the
/// processor beyond its maker) read as zero; fields of later kernels are ignored.
///
/// # Errors
/// [`TraceError`] where an essential field (status, address, misc, bank, maker, ...) is missing or
/// the payload ends before it, with its name and offset.
pub fn decode(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    let needed = |name| format.integer(payload, name);
    let optional = |name| Ok(format.optional_integer(payload, name)?.unwrap_or(0));

    let registers = McaRegisters {
        vendor: vendor(byte(needed("cpuvendor")?)),
        cpuid: word(optional("cpuid")?),
        bank: byte(needed("bank")?),
        mcg_cap: needed("mcgcap")?,
        mcg_status: needed("mcgstatus")?,
        status: needed("status")?,
        addr: needed("addr")?,
        misc: needed("misc")?,
        synd: optional("synd")?,
        ipid: optional("ipid")?,
        ip: optional("ip")?,
        cs: byte(optional("cs")?),
        tsc: optional("tsc")?,
        ppin: optional("ppin")?,
        apic_id: word(optional("apicid")?),
        microcode: word(optional("microcode")?),
        ..McaRegisters::default()
    };
    // Whole seconds since the epoch, 0 in records the kernel found left over from before it booted.
    let walltime = format.optional_integer(payload, "walltime")?;
    let context = Context {
        time: walltime.filter(|secs| *secs != 0).map(Timestamp::from_secs),
        cpu: format.optional_integer(payload, "cpu")?.map(word),
        socket: format.optional_integer(payload, "socketid")?.map(word),
    };
    Ok(mca::decode(&registers, context))
}

/// The kernel's `X86_VENDOR_*` numbers (`arch/x86/include/asm/processor.h`).
#[must_use]
pub const fn vendor(number: u8) -> CpuVendor {
    match number {
        0 => CpuVendor::Intel,
        2 => CpuVendor::Amd,
        // Centaur became Zhaoxin.
        5 | 10 => CpuVendor::Zhaoxin,
        9 => CpuVendor::Hygon,
        other => CpuVendor::Unknown(other),
    }
}

/// The field's low bits: a kernel that widens a field has not changed its values.
const fn byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

const fn word(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use ras_core::{Raw, Severity};

    /// Field name and size, in the order of the struct: offsets follow from C's alignment rules.
    fn layout(newer: bool) -> Vec<(&'static str, usize)> {
        let mut fields = vec![
            ("common_type", 2),
            ("common_flags", 1),
            ("common_preempt_count", 1),
            ("common_pid", 4),
        ];
        let wide = ["mcgcap", "mcgstatus", "status", "addr", "misc", "synd", "ipid", "ip", "tsc"];
        fields.extend(wide.map(|name| (name, 8)));
        if newer {
            fields.push(("ppin", 8));
        }
        fields.push(("walltime", 8));
        fields.extend(["cpu", "cpuid", "apicid", "socketid"].map(|name| (name, 4)));
        fields.extend(["cs", "bank", "cpuvendor"].map(|name| (name, 1)));
        if newer {
            fields.push(("microcode", 4));
        }
        fields
    }

    fn text(fields: &[(&str, usize)]) -> String {
        let mut text = String::from("name: mce_record\nID: 113\nformat:\n");
        let mut end = 0usize;
        for (name, size) in fields {
            let offset = end.next_multiple_of(*size);
            text.push_str(&format!(
                "\tfield:u{} {name};\toffset:{offset};\tsize:{size};\tsigned:0;\n",
                size * 8
            ));
            end = offset + size;
        }
        text
    }

    fn payload(format: &EventFormat, registers: &McaRegisters, context: &Context) -> Vec<u8> {
        let value = |name: &str| match name {
            "common_type" => 113,
            "mcgcap" => registers.mcg_cap,
            "mcgstatus" => registers.mcg_status,
            "status" => registers.status,
            "addr" => registers.addr,
            "misc" => registers.misc,
            "synd" => registers.synd,
            "ipid" => registers.ipid,
            "ip" => registers.ip,
            "tsc" => registers.tsc,
            "ppin" => registers.ppin,
            "walltime" => context.time.map_or(0, Timestamp::secs),
            "cpu" => context.cpu.unwrap_or(0).into(),
            "cpuid" => registers.cpuid.into(),
            "apicid" => registers.apic_id.into(),
            "socketid" => context.socket.unwrap_or(0).into(),
            "cs" => registers.cs.into(),
            "bank" => registers.bank.into(),
            "cpuvendor" => match registers.vendor {
                CpuVendor::Intel => 0,
                CpuVendor::Amd => 2,
                CpuVendor::Hygon => 9,
                CpuVendor::Zhaoxin => 10,
                CpuVendor::Unknown(number) => number.into(),
                _ => 255,
            },
            "microcode" => registers.microcode.into(),
            _ => 0,
        };
        let end = format.fields.iter().map(|f| f.offset + f.size).max().unwrap_or(0);
        let mut bytes = vec![0; end];
        for field in &format.fields {
            let value = value(&field.name).to_le_bytes();
            bytes[field.offset..][..field.size].copy_from_slice(&value[..field.size]);
        }
        bytes
    }

    fn formats() -> [EventFormat; 2] {
        [false, true].map(|newer| EventFormat::parse(&text(&layout(newer))).unwrap())
    }

    #[test]
    fn both_generations_of_the_layout_have_the_kernel_s_offsets() {
        let [older, newer] = formats();
        let offset = |format: &EventFormat, name| format.field(name).map(|field| field.offset);
        assert_eq!(offset(&older, "walltime"), Some(80));
        assert_eq!(offset(&older, "cpuvendor"), Some(106));
        assert_eq!(offset(&newer, "ppin"), Some(80));
        assert_eq!(offset(&newer, "cpuvendor"), Some(114));
        assert_eq!(offset(&newer, "microcode"), Some(116));
    }

    #[test]
    fn a_missing_essential_field_is_named() {
        for essential in ["mcgcap", "mcgstatus", "status", "addr", "misc", "bank", "cpuvendor"] {
            let fields: Vec<_> =
                layout(true).into_iter().filter(|(name, _)| *name != essential).collect();
            let format = EventFormat::parse(&text(&fields)).unwrap();
            let error = decode(&format, &[0; 200]).unwrap_err();
            // The all-zero payload is of event 0, which must be said first.
            assert_eq!(error, TraceError::WrongEvent { expected: 113, found: 0 });
            let mut bytes = [0; 200];
            bytes[0] = 113;
            let error = decode(&format, &bytes).unwrap_err();
            assert_eq!(format!("{error}"), format!("event mce_record has no field {essential}"));
        }
    }

    #[test]
    fn extra_fields_are_ignored() {
        let mut fields = layout(true);
        fields.insert(4, ("surprise", 8));
        let format = EventFormat::parse(&text(&fields)).unwrap();
        let registers = mca::tests::intel(0xbd00_0000_0000_00c0);
        let bytes = payload(&format, &registers, &Context::default());
        let record = decode(&format, &bytes).unwrap();
        assert_eq!(record.severity, Severity::Srao);
        assert_eq!(record.raw, Raw::Mca(registers));
        assert_eq!(record.time, None, "a wall time of zero is none");
    }

    #[test]
    fn every_truncation_is_an_error_with_an_offset() {
        for format in formats() {
            let bytes =
                payload(&format, &mca::tests::intel(0x8c00_0040_0001_0091), &Context::default());
            for len in 0..bytes.len() {
                match decode(&format, &bytes[..len]) {
                    Err(TraceError::Truncated { offset, needed, .. }) => {
                        assert!(offset + needed > len, "{len}");
                    }
                    other => panic!("{len} of {} bytes: {other:?}", bytes.len()),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_recorded_is_decoded(
            registers in mca::tests::any_registers(),
            (secs, cpu, socket) in (1u64..1 << 33, any::<u32>(), any::<u32>()),
        ) {
            let context =
                Context { time: Some(Timestamp::from_secs(secs)), cpu: Some(cpu), socket: Some(socket) };
            // What the event has no field for.
            let registers =
                McaRegisters { synd1: 0, synd2: 0, config: 0, destat: 0, deaddr: 0, ..registers };
            let [older, newer] = formats();
            let record = decode(&newer, &payload(&newer, &registers, &context)).unwrap();
            prop_assert_eq!(&record, &mca::decode(&registers, context));
            let record = decode(&older, &payload(&older, &registers, &context)).unwrap();
            let registers = McaRegisters { ppin: 0, microcode: 0, ..registers };
            prop_assert_eq!(&record, &mca::decode(&registers, context));
        }

        #[test]
        fn any_payload_is_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            for format in formats() {
                let _ = decode(&format, &bytes);
            }
        }
    }
}
